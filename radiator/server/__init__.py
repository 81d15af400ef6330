"""The running daemon: sockets, timers, signals and the log lines; the only package that imports gevent.

It must never parse a frame, route a message or know a file's layout. Called by: `cli`.
"""
