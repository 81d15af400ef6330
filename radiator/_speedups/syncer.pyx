# cython: language_level=3, embedsignature=True, auto_pickle=False
"""The native sync worker: one long-lived thread that writes and syncs the log and never takes the GIL while it works.

One request at a time: `submit` hands over (fd, buffer, offset, sync), the thread writes all of it with pwrite, syncs
if asked, and makes `fileno()` readable; `result` then says how much was written and the errno, 0 for none. It must
never touch a Python object between taking a request and answering it, never retry a failed sync, and never call a
short write a success. Called by: `store.file.syncer`, which offers a Python thread of the same interface.

The fields of a request belong to the loop before the wake of the request channel and after the answer was read, and to
the thread in between; the system calls on the channels order the two.
"""

import threading

from libc.errno cimport EINTR, EIO, errno
from posix.types cimport off_t

cdef extern from "Python.h":
    int PyBUF_SIMPLE
    int PyObject_GetBuffer(object, Py_buffer *, int) except -1
    void PyBuffer_Release(Py_buffer *)

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/eventfd.h>
    /* The answer channel (wait = 0) must not block its reader, the request channel (wait = 1) must. */
    static int channel_open(int fds[2], int wait) {
        return fds[0] = fds[1] = eventfd(0, EFD_CLOEXEC | (wait ? 0 : EFD_NONBLOCK)), fds[0] < 0 ? -1 : 0;
    }
    #define sync_file fdatasync
    #else
    static int channel_open(int fds[2], int wait) {
        if (pipe(fds) < 0) return -1;
        fcntl(fds[0], F_SETFD, FD_CLOEXEC); fcntl(fds[1], F_SETFD, FD_CLOEXEC);
        return wait ? 0 : fcntl(fds[0], F_SETFL, O_NONBLOCK);
    }
    static int sync_file(int fd) {
    #ifdef F_FULLFSYNC  /* fsync alone leaves the data in the drive's cache there */
        if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
    #endif
        return fsync(fd);
    }
    #endif
    static void channel_close(int fds[2]) { close(fds[0]); if (fds[1] != fds[0]) close(fds[1]); }
    static int channel_put(int fds[2]) {
        uint64_t one = 1; ssize_t k;
        do k = write(fds[1], &one, 8); while (k < 0 && errno == EINTR);
        return k == 8 ? 0 : -1;
    }
    static int channel_take(int fds[2]) {
        uint64_t any; ssize_t k;
        do k = read(fds[0], &any, 8); while (k < 0 && errno == EINTR);
        return k == 8 ? 0 : -1;
    }
    """
    int channel_open(int *, int) nogil
    void channel_close(int *) nogil
    int channel_put(int *) nogil
    int channel_take(int *) nogil
    int sync_file(int) nogil
    ssize_t pwrite(int, const void *, size_t, off_t) nogil


cdef class NativeSyncer:
    """Write whole buffers and sync them on a thread of its own, one at a time.

    `busy` is true from `submit` until `result` has given the answer. Raises OSError where the system has no more file
    descriptors.
    """

    cdef int _ask[2]
    cdef int _answer[2]
    cdef int _fd
    cdef bint _sync
    cdef bint _todo  # a request the thread has not taken yet; `busy` lasts until the loop took the answer
    cdef bint _stop
    cdef off_t _offset
    cdef Py_ssize_t _written
    cdef int _errno
    cdef Py_buffer _view
    cdef readonly bint busy
    cdef object _thread

    def __cinit__(self):
        self._ask[0] = self._ask[1] = self._answer[0] = self._answer[1] = -1
        if channel_open(self._ask, 1) < 0 or channel_open(self._answer, 0) < 0:
            raise OSError(errno, "cannot make the channels of the sync worker")

    def __init__(self):
        if self._thread is not None:
            raise RuntimeError("the sync worker is running")
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def __dealloc__(self):
        # The thread's target holds a reference: nothing runs any more when this does.
        if self._ask[0] >= 0:
            channel_close(self._ask)
        if self._answer[0] >= 0:
            channel_close(self._answer)

    def fileno(self):
        """The descriptor that is readable when a result waits."""
        return self._answer[0]

    def submit(self, int fd, buffer, off_t offset, bint sync):
        """Start writing all of `buffer` at `offset` of `fd`, then syncing it if `sync`; an empty buffer only syncs.

        The buffer is pinned until `result` gives the answer. Raises RuntimeError while busy and after `close`.
        """
        if self.busy or self._thread is None:
            raise RuntimeError("the sync worker is busy" if self.busy else "the sync worker is closed")
        PyObject_GetBuffer(buffer, &self._view, PyBUF_SIMPLE)
        self._fd, self._offset, self._sync = fd, offset, sync
        self.busy = self._todo = True
        if channel_put(self._ask) < 0:
            self.busy = self._todo = False
            PyBuffer_Release(&self._view)
            raise OSError(errno, "cannot wake the sync worker")

    def result(self):
        """(bytes written, errno) of the last request, or None while it runs or where there is none."""
        if not self.busy or channel_take(self._answer) < 0:
            return None
        return self._finish()

    cdef tuple _finish(self):
        PyBuffer_Release(&self._view)
        self.busy = False
        return self._written, self._errno

    def close(self):
        """Wait for what runs, then end the thread. A result not yet taken is lost; closing twice is harmless."""
        if self._thread is None:
            return
        self._stop = True
        channel_put(self._ask)
        self._thread.join()
        self._thread = None
        if self.busy:
            self._finish()

    def _run(self):
        with nogil:
            while channel_take(self._ask) == 0:
                if self._todo:
                    self._todo = False
                    self._work()
                    channel_put(self._answer)
                if self._stop:
                    break

    cdef void _work(self) noexcept nogil:
        cdef ssize_t count
        self._written = 0
        self._errno = 0
        while self._written < self._view.len:
            count = pwrite(self._fd, <char *>self._view.buf + self._written,
                           self._view.len - self._written, self._offset + self._written)
            if count > 0:
                self._written += count
            elif count == 0:
                self._errno = EIO  # no progress and no reason: not to be tried for ever
                return
            elif errno != EINTR:
                self._errno = errno
                return
        if self._sync:
            while sync_file(self._fd) < 0:
                # Interrupted before it started; any other error has dropped the pages and is final.
                if errno != EINTR:
                    self._errno = errno
                    return
