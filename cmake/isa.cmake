# The instruction-set levels: one source file each, the only files with instruction-set flags.
# docs/adding-an-isa.md says what else a new level takes.
function(bitinfer_isa target name)
  set(source csrc/cpu/kernels/isa/${name}.cpp)
  target_sources(${target} PRIVATE ${source})
  bitinfer_kernel_flags(${source} ${ARGN})
endfunction()

# Flags of a file of kernels. They are inlined into one another, and to check the scopes of all their
# temporaries, whose addresses nobody keeps, would make such a file compile for minutes.
function(bitinfer_kernel_flags source)
  if(BITINFER_SANITIZE MATCHES "address")
    list(APPEND ARGN -fno-sanitize-address-use-after-scope)
  endif()
  set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${ARGN}")
endfunction()

function(bitinfer_add_isa_sources target)
  bitinfer_isa(${target} portable)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    bitinfer_isa(${target} avx2 -mavx2 -mfma -mpopcnt)
    bitinfer_isa(${target} avx512_vpopcnt
      -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni -mavx512vpopcntdq
      -mfma -mpopcnt)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    bitinfer_isa(${target} neon)
  endif()
endfunction()
