// Runs a dumped model on dumped sequences and dumps every code and logit: how the engine is
// compared on a machine (or emulator) without Python, and under sanitizers. The instruction set is
// the best one or BITINFER_ISA; its name goes to standard error.
//
//   replay THREADS < model.bin > results.bin
//
// In, little-endian: int64 hidden, layers, heads, intermediate, vocab, positions, token_types,
// labels, activation, reads (order of their enumerations), then bits, is_signed, from_min of every
// point; int64 count of tensors, each: int64 name length, name, int64 dtype (order of
// DType), int64 axes, int64 sizes, data; int64 count of sequences, each: int64 length, int32 ids.
// Out, per sequence: int8 codes by layer and point (order of Point), int8 pooler codes, double
// logits.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/engine.h"

namespace {

using namespace bitinfer;

void read(void* to, size_t size) {
  if (std::fread(to, 1, size, stdin) != size) {
    std::fprintf(stderr, "replay: input ends early\n");
    std::exit(2);
  }
}

int64_t read_integer() {
  int64_t value;
  read(&value, sizeof value);
  return value;
}

template <class T>
void write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

Config read_config() {
  Config config{};
  for (int64_t* field : {&config.hidden, &config.layers, &config.heads, &config.intermediate,
                         &config.vocab, &config.positions, &config.token_types, &config.labels}) {
    *field = read_integer();
  }
  config.activation = static_cast<HiddenActivation>(read_integer());
  config.reads = static_cast<Reads>(read_integer());
  for (PointCodes& codes : config.codes) {
    codes.bits = static_cast<int>(read_integer());
    codes.is_signed = read_integer() != 0;
    codes.from_min = read_integer() != 0;
  }
  return config;
}

TensorMap read_tensors(std::vector<std::vector<uint64_t>>& storage) {
  static constexpr size_t kSizes[] = {8, 4, 2, 4, 8};
  TensorMap tensors;
  const int64_t count = read_integer();
  storage.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    std::string name(static_cast<size_t>(read_integer()), '\0');
    read(name.data(), name.size());
    Tensor tensor{static_cast<DType>(read_integer()), {}, nullptr};
    tensor.shape.resize(static_cast<size_t>(read_integer()));
    size_t bytes = kSizes[static_cast<size_t>(tensor.dtype)];
    for (int64_t& size : tensor.shape) bytes *= static_cast<size_t>(size = read_integer());
    storage.emplace_back((bytes + 7) / 8);
    read(storage.back().data(), bytes);
    tensor.data = storage.back().data();
    tensors.emplace(std::move(name), std::move(tensor));
  }
  return tensors;
}

void replay_sequence(Engine& engine) {
  const Config& config = engine.config();
  const int64_t tokens = read_integer();
  std::vector<int32_t> ids(static_cast<size_t>(tokens)), positions(ids.size()),
      segments(ids.size());
  read(ids.data(), ids.size() * sizeof(int32_t));
  std::iota(positions.begin(), positions.end(), 0);
  const int64_t offsets[2] = {0, tokens}, first = 0;
  const int32_t keys = static_cast<int32_t>(tokens);
  const Batch batch{ids.data(), positions.data(), segments.data(), offsets, &keys, &first, 1};

  Trace trace(config, tokens);
  std::vector<double> logits(
      static_cast<size_t>((config.reads == Reads::kTokens ? tokens : 1) * config.labels));
  std::vector<double> pooled(static_cast<size_t>(config.hidden));
  engine.run(batch, {logits.data(), pooled.data(), nullptr}, {&trace, nullptr});
  for (const auto& layer : trace.layers) {
    for (const auto& codes : layer) write(codes);
  }
  write(trace.pooler_in);
  write(logits);

  // Without a trace the last layer runs for the pooled token alone.
  std::vector<double> plain_logits(logits.size()), plain_pooled(pooled.size());
  engine.run(batch, {plain_logits.data(), plain_pooled.data(), nullptr});
  if (plain_logits != logits || plain_pooled != pooled) {
    throw std::runtime_error("the result differs without a trace");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: replay THREADS < model.bin > results.bin\n");
    return 2;
  }
  try {
    const Config config = read_config();
    std::vector<std::vector<uint64_t>> storage;
    const TensorMap tensors = read_tensors(storage);
    Engine engine(config, tensors, std::nullopt, std::atoi(argv[1]));
    std::fprintf(stderr, "%s\n", engine.isa().c_str());
    for (int64_t left = read_integer(); left > 0; --left) replay_sequence(engine);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "replay: %s\n", error.what());
    return 1;
  }
  return 0;
}
