# Flags of every target. There is no -march=native and no fast-math here: the same source must give the
# same bits on every machine, so only the files in isa.cmake get instruction-set flags.
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  message(FATAL_ERROR "bitinfer needs GCC or Clang, found ${CMAKE_CXX_COMPILER_ID}")
endif()

if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "bitinfer runs on Linux, found ${CMAKE_SYSTEM_NAME}")
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")

add_library(bitinfer_flags INTERFACE)
# No contraction: a fused multiply-add rounds once where the definition rounds twice.
target_compile_options(bitinfer_flags INTERFACE -Wall -Wextra -ffp-contract=off -fno-math-errno)
target_link_options(bitinfer_flags INTERFACE -Wl,-z,noexecstack)

if(BITINFER_WERROR)
  target_compile_options(bitinfer_flags INTERFACE -Werror)
endif()

if(BITINFER_SANITIZE)
  # Optimized fully and with all debug information, the unrolled kernels compile for many minutes.
  set(sanitize -fsanitize=${BITINFER_SANITIZE} -fno-sanitize-recover=all)
  target_compile_options(bitinfer_flags INTERFACE ${sanitize} -fno-omit-frame-pointer -O1 -g1)
  target_link_options(bitinfer_flags INTERFACE ${sanitize})
endif()
