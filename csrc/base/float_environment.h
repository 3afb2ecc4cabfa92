// Results must not depend on what else runs in the process: a caller may have set another rounding
// mode, or have denormals flushed to zero (torch.set_flush_denormal), for its thread.
#pragma once

#include <cfenv>

#if defined(__FAST_MATH__) || (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0)
#error "bitinfer needs IEEE arithmetic: build it without -ffast-math and without x87"
#endif

namespace bitinfer {

// The default environment until the end of the scope, on this thread.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::fenv_t saved_;
};

}  // namespace bitinfer
