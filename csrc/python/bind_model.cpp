// The engine as bitinfer._core.Model.
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "base/error.h"
#include "cpu/engine.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/gil.h"

namespace bitinfer {
namespace {

using ConfigDict = std::map<std::string, std::variant<int64_t, std::string>>;

Config read_config(const ConfigDict& dict) {
  std::set<std::string> known;
  const auto find = [&](const char* key) -> const std::variant<int64_t, std::string>& {
    const auto found = dict.find(key);
    if (found == dict.end()) throw FormatError(std::string("config '") + key + "' is missing");
    known.insert(key);
    return found->second;
  };
  const auto integer = [&](const char* key) {
    const int64_t* value = std::get_if<int64_t>(&find(key));
    if (value == nullptr) {
      throw FormatError(std::string("config '") + key + "': expected an integer");
    }
    return *value;
  };
  Config config{};
  config.hidden = integer("hidden");
  config.layers = integer("layers");
  config.heads = integer("heads");
  config.intermediate = integer("intermediate");
  config.vocab = integer("vocab");
  config.positions = integer("positions");
  config.token_types = integer("token_types");
  config.labels = integer("labels");
  const std::string* head = std::get_if<std::string>(&find("head"));
  if (head != nullptr && *head == "classification") {
    config.head = Head::kClassification;
  } else if (head != nullptr && *head == "span") {
    config.head = Head::kSpan;
  } else {
    throw FormatError("config 'head': found '" +
                      (head != nullptr ? *head : std::string("a number")) +
                      "', expected 'classification' or 'span'");
  }
  for (const auto& [key, value] : dict) {
    if (known.count(key) == 0) throw FormatError("config '" + key + "' is unknown to the engine");
  }
  return config;
}

Tensor read_tensor(const std::string& name, const py::array& array) {
  Tensor tensor{};
  if (py::isinstance<py::array_t<uint64_t>>(array)) {
    tensor.dtype = DType::kUint64;
  } else if (py::isinstance<py::array_t<int32_t>>(array)) {
    tensor.dtype = DType::kInt32;
  } else if (py::isinstance<py::array_t<float>>(array)) {
    tensor.dtype = DType::kFloat32;
  } else if (py::isinstance<py::array_t<double>>(array)) {
    tensor.dtype = DType::kFloat64;
  } else {
    throw FormatError("tensor '" + name + "': found " + describe(array) +
                      ", expected uint64, int32, float32 or float64");
  }
  if (!is_plain(array)) {
    throw FormatError("tensor '" + name + "': expected an aligned C-contiguous array");
  }
  tensor.shape.assign(array.shape(), array.shape() + array.ndim());
  tensor.data = array.data();
  return tensor;
}

class Model {
 public:
  Model(const ConfigDict& config, const std::map<std::string, py::array>& arrays,
        const std::optional<std::string>& isa, const std::optional<int>& num_threads)
      : config_(config) {
    TensorMap tensors;
    for (const auto& [name, array] : arrays) tensors.emplace(name, read_tensor(name, array));
    const Config parsed = read_config(config);
    const WithoutGil without_gil;
    engine_ = std::make_unique<Engine>(parsed, tensors, isa, num_threads);
  }

  py::dict forward(const py::array& ids, const py::array& positions, const py::array& segments,
                   const py::array& offsets, const py::array& keys, const py::array& first,
                   bool with_hidden, bool with_stages) {
    const int64_t sequences = offsets.ndim() == 1 ? offsets.shape(0) - 1 : 0;
    if (sequences < 1) throw std::invalid_argument("offsets: expected at least one sequence");
    Batch batch = read_tokens(ids, positions, segments);
    batch.offsets = read_array<int64_t>(offsets, "offsets", {sequences + 1});
    batch.keys = read_array<int32_t>(keys, "keys", {sequences});
    batch.first = read_array<int64_t>(first, "first", {sequences});
    batch.sequences = sequences;
    if (batch.tokens() != ids.shape(0)) {
      throw std::invalid_argument("offsets: found the end " + std::to_string(batch.tokens()) +
                                  ", expected the number of tokens, " +
                                  std::to_string(ids.shape(0)));
    }
    if (!with_stages) return run(batch, with_hidden, {});
    std::vector<StageTimes> times(static_cast<size_t>(num_threads()));
    py::dict result = run(batch, with_hidden, {nullptr, times.data()});
    add_stages(times, result);
    return result;
  }

  py::dict trace(const py::array& ids, const py::array& positions, const py::array& segments,
                 int32_t keys, int64_t first, int64_t layer,
                 const std::optional<py::array>& hidden) {
    const Config& config = engine_->config();
    Batch batch = read_tokens(ids, positions, segments);
    const int64_t tokens = ids.shape(0);
    const int64_t offsets[2] = {0, tokens};
    batch.offsets = offsets;
    batch.keys = &keys;
    batch.first = &first;
    batch.sequences = 1;

    if (layer < 0 || layer > config.layers || (layer > 0 && !hidden)) {
      throw std::invalid_argument("layer: found " + std::to_string(layer) + ", expected 0 to " +
                                  std::to_string(config.layers) +
                                  ", and hidden states if it is not 0");
    }
    engine_->check(batch);  // before memory is taken for as many tokens as it claims
    Trace trace(config, tokens, layer);
    if (hidden) {
      trace.initial_hidden = read_array<double>(*hidden, "hidden", {tokens, config.hidden});
    }
    py::dict result = run(batch, false, {&trace, nullptr});
    add_codes(trace, tokens, result);
    return result;
  }

  const ConfigDict& config() const { return config_; }
  const std::string& isa() const { return engine_->isa(); }
  int num_threads() const { return engine_->num_threads(); }
  size_t weight_bytes() const { return engine_->weight_bytes(); }
  size_t workspace_bytes() const { return engine_->workspace_bytes(); }

 private:
  static Batch read_tokens(const py::array& ids, const py::array& positions,
                           const py::array& segments) {
    Batch batch{};
    batch.ids = read_array<int32_t>(ids, "ids", {kAnySize});
    batch.positions = read_array<int32_t>(positions, "positions", {ids.shape(0)});
    batch.segments = read_array<int32_t>(segments, "segments", {ids.shape(0)});
    return batch;
  }

  py::dict run(const Batch& batch, bool with_hidden, const Observers& observers) {
    const Config& config = engine_->config();
    // The engine has yet to check the offsets; their number and the last of them are right.
    const int64_t tokens = batch.tokens();
    const int64_t rows = config.head == Head::kSpan ? tokens : batch.sequences;
    py::array_t<double> logits = make_array<double>({rows, config.labels});
    py::array_t<double> pooled = make_array<double>({batch.sequences, config.hidden});
    py::array_t<double> hidden = make_array<double>({with_hidden ? tokens : 0, config.hidden});
    const Outputs outputs{logits.mutable_data(), pooled.mutable_data(),
                          with_hidden ? hidden.mutable_data() : nullptr};
    {
      const WithoutGil without_gil;
      engine_->run(batch, outputs, observers);
    }
    py::dict result;
    result["logits"] = logits;
    result["pooled"] = pooled;
    if (with_hidden) result["hidden"] = hidden;
    return result;
  }

  static void add_stages(const std::vector<StageTimes>& times, py::dict& result) {
    static constexpr const char* kNames[kStageCount] = {
        "embedding", "projections",  "wait",   "attention", "attention output",
        "normalize", "intermediate", "output", "head"};
    py::dict stages;
    for (int stage = 0; stage < kStageCount; ++stage) {
      int64_t sum = 0;
      for (const StageTimes& thread : times) sum += thread[static_cast<size_t>(stage)];
      stages[kNames[stage]] = 1e-9 * static_cast<double>(sum);
    }
    result["stages"] = stages;
  }

  void add_codes(const Trace& trace, int64_t tokens, py::dict& result) const {
    const Config& config = engine_->config();
    static constexpr const char* kNames[kPointCount] = {"query.in",
                                                        "key.in",
                                                        "value.in",
                                                        "query",
                                                        "key",
                                                        "value",
                                                        "attention.probs",
                                                        "attention.output.in",
                                                        "intermediate.in",
                                                        "output.in"};
    const auto copy = [](const auto& values, const std::vector<int64_t>& shape) {
      using T = typename std::decay_t<decltype(values)>::value_type;
      py::array_t<T> array = make_array<T>(shape);
      std::copy(values.begin(), values.end(), array.mutable_data());
      return array;
    };
    for (int64_t i = trace.first_layer; i < config.layers; ++i) {
      for (int point = 0; point < kPointCount; ++point) {
        const auto& codes = trace.layers[i][point];
        py::object array;
        if (point == kProbs) {
          array = copy(codes, {config.heads, tokens, tokens});
        } else if (point == kQuery || point == kKey || point == kValue) {
          array =
              copy(codes, {tokens, config.heads, config.head_size()}).attr("transpose")(1, 0, 2);
        } else {
          array = copy(codes, {tokens, static_cast<int64_t>(codes.size()) / tokens});
        }
        const std::string name = "codes.layer" + std::to_string(i) + "." + kNames[point];
        result[name.c_str()] = array;
      }
    }
    for (int64_t i = trace.first_layer; i <= config.layers; ++i) {
      const std::string name = "hidden" + std::to_string(i);
      result[name.c_str()] = copy(trace.hidden[i], {tokens, config.hidden});
    }
    result["codes.pooler.in"] = copy(trace.pooler_in, {config.hidden});
  }

  ConfigDict config_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace

void bind_model(py::module_& module) {
  py::class_<Model>(module, "Model", "A packed model, ready to run; immutable and shareable.")
      .def(py::init<const ConfigDict&, const std::map<std::string, py::array>&,
                    const std::optional<std::string>&, const std::optional<int>&>(),
           py::arg("config"), py::arg("tensors"), py::arg("isa") = py::none(),
           py::arg("num_threads") = py::none())
      .def(
          "forward", &Model::forward, py::arg("ids"), py::arg("positions"), py::arg("segments"),
          py::arg("offsets"), py::arg("keys"), py::arg("first"), py::arg("hidden") = false,
          py::arg("stages") = false,
          "Runs a ragged batch; returns logits and pooled, and, if asked for, hidden, all float64, "
          "and stages: the seconds that all threads together spent in each.")
      .def("trace", &Model::trace, py::arg("ids"), py::arg("positions"), py::arg("segments"),
           py::arg("keys"), py::arg("first"), py::arg("layer") = 0, py::arg("hidden") = py::none(),
           "Runs one sequence, from `layer` on, and returns the codes at every point as well.")
      .def_property_readonly("config", &Model::config)
      .def_property_readonly("isa", &Model::isa)
      .def_property_readonly("num_threads", &Model::num_threads)
      .def_property_readonly("weight_bytes", &Model::weight_bytes)
      .def_property_readonly("workspace_bytes", &Model::workspace_bytes);
}

}  // namespace bitinfer
