// The interpreter's lock, given up while native code runs.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace bitinfer {

// Unlike pybind11's guard it survives the end of the interpreter: a daemon thread that comes back
// then is ended by pthread_exit (before Python 3.14), whose unwinding may not meet a noexcept
// destructor. So such a thread sleeps until the process is gone, and the destructor may throw.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() noexcept(false) {
    while (is_finalizing()) pause();
    PyEval_RestoreThread(state_);
  }

 private:
  static bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
  }

  PyThreadState* state_;
};

}  // namespace bitinfer
