"""radiator: a STOMP message broker with the confidence of a database."""

__version__ = "0.1.0"
