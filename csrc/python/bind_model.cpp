// The engine as bitinfer._core.Model.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "cpu/engine.h"
#include "python/arrays.h"
#include "python/bind.h"
#include "python/gil.h"

namespace bitinfer {
namespace {

using ConfigDict =
    std::map<std::string, std::variant<int64_t, std::string, std::map<std::string, std::string>>>;

// Every setting by name; those that nobody asked for do not belong to a model.
class Settings {
 public:
  explicit Settings(const ConfigDict& dict) : dict_(dict) {}

  int64_t integer(const char* key) { return get<int64_t>(key, "an integer"); }

  // The one of the values whose name the setting has.
  template <class T>
  T choice(const char* key, std::initializer_list<std::pair<const char*, T>> values) {
    const std::string& found = get<std::string>(key, "text");
    std::string expected;
    for (const auto& [name, value] : values) {
      if (found == name) return value;
      expected += (expected.empty() ? "'" : " or '") + std::string(name) + "'";
    }
    throw FormatError(std::string("config '") + key + "': found '" + found + "', expected " +
                      expected);
  }

  std::array<PointCodes, kPointCount> codes() {
    const auto& names = get<std::map<std::string, std::string>>("codes", "names by point");
    std::array<PointCodes, kPointCount> codes{};
    for (int p = 0; p < kPointCount; ++p) {
      const std::string point = name_of(static_cast<Point>(p));
      const auto found = names.find(point);
      if (found == names.end()) throw FormatError("codes of '" + point + "' are missing");
      codes[static_cast<size_t>(p)] = parse_codes(point, found->second);
    }
    if (names.size() != kPointCount) throw FormatError("config 'codes': found an unknown point");
    return codes;
  }

  void refuse_unread() const {
    for (const auto& [key, value] : dict_) {
      if (read_.count(key) == 0) throw FormatError("config '" + key + "' is unknown to the engine");
    }
  }

 private:
  template <class T>
  const T& get(const std::string& key, const char* expected) {
    const auto found = dict_.find(key);
    if (found == dict_.end()) throw FormatError("config '" + key + "' is missing");
    read_.insert(key);
    const T* value = std::get_if<T>(&found->second);
    if (value == nullptr) throw FormatError("config '" + key + "': expected " + expected);
    return *value;
  }

  const ConfigDict& dict_;
  std::set<std::string> read_;
};

Config read_config(const ConfigDict& dict) {
  Settings settings(dict);
  const Config config{
      settings.integer("hidden"),
      settings.integer("layers"),
      settings.integer("heads"),
      settings.integer("intermediate"),
      settings.integer("vocab"),
      settings.integer("positions"),
      settings.integer("token_types"),
      settings.integer("labels"),
      settings.choice<HiddenActivation>(
          "activation", {{"relu", HiddenActivation::kRelu}, {"gelu", HiddenActivation::kGelu}}),
      settings.choice<Reads>(
          "reads",
          {{"none", Reads::kNothing}, {"pooled", Reads::kPooled}, {"tokens", Reads::kTokens}}),
      settings.codes()};
  settings.refuse_unread();
  return config;
}

Tensor read_tensor(const std::string& name, const py::array& array) {
  Tensor tensor{};
  if (py::isinstance<py::array_t<uint64_t>>(array)) {
    tensor.dtype = DType::kUint64;
  } else if (py::isinstance<py::array_t<int32_t>>(array)) {
    tensor.dtype = DType::kInt32;
  } else if (py::isinstance<py::array_t<int16_t>>(array)) {
    tensor.dtype = DType::kInt16;
  } else if (py::isinstance<py::array_t<float>>(array)) {
    tensor.dtype = DType::kFloat32;
  } else if (py::isinstance<py::array_t<double>>(array)) {
    tensor.dtype = DType::kFloat64;
  } else {
    throw FormatError("tensor '" + name + "': found " + describe(array) +
                      ", expected uint64, int32, int16, float32 or float64");
  }
  if (!is_plain(array)) {
    throw FormatError("tensor '" + name + "': expected an aligned C-contiguous array");
  }
  tensor.shape.assign(array.shape(), array.shape() + array.ndim());
  tensor.data = array.data();
  return tensor;
}

class BoundModel {
 public:
  BoundModel(const ConfigDict& config, const std::map<std::string, py::array>& arrays,
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
    check_batch(batch, config);  // before memory is taken for as many tokens as it claims
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
    const int64_t rows = config.reads == Reads::kTokens ? tokens : batch.sequences;
    const int64_t columns = config.reads == Reads::kNothing ? 0 : config.labels;
    py::array_t<double> logits = make_array<double>({rows, columns});
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
    const auto copy = [](const auto& values, const std::vector<int64_t>& shape) {
      using T = typename std::decay_t<decltype(values)>::value_type;
      py::array_t<T> array = make_array<T>(shape);
      std::copy(values.begin(), values.end(), array.mutable_data());
      return array;
    };
    for (int64_t i = trace.first_layer; i < config.layers; ++i) {
      for (int point = 0; point < kLayerPoints; ++point) {
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
        const std::string name =
            "codes.layer" + std::to_string(i) + "." + name_of(static_cast<Point>(point));
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
  py::class_<BoundModel>(module, "Model", "A packed model, ready to run; immutable and shareable.")
      .def(py::init<const ConfigDict&, const std::map<std::string, py::array>&,
                    const std::optional<std::string>&, const std::optional<int>&>(),
           py::arg("config"), py::arg("tensors"), py::arg("isa") = py::none(),
           py::arg("num_threads") = py::none())
      .def(
          "forward", &BoundModel::forward, py::arg("ids"), py::arg("positions"),
          py::arg("segments"), py::arg("offsets"), py::arg("keys"), py::arg("first"),
          py::arg("hidden") = false, py::arg("stages") = false,
          "Runs a ragged batch; returns logits and pooled, and, if asked for, hidden, all float64, "
          "and stages: the seconds that all threads together spent in each.")
      .def("trace", &BoundModel::trace, py::arg("ids"), py::arg("positions"), py::arg("segments"),
           py::arg("keys"), py::arg("first"), py::arg("layer") = 0, py::arg("hidden") = py::none(),
           "Runs one sequence, from `layer` on, and returns the codes at every point as well.")
      .def_property_readonly("config", &BoundModel::config)
      .def_property_readonly("isa", &BoundModel::isa)
      .def_property_readonly("num_threads", &BoundModel::num_threads)
      .def_property_readonly("weight_bytes", &BoundModel::weight_bytes)
      .def_property_readonly("workspace_bytes", &BoundModel::workspace_bytes);
}

}  // namespace bitinfer
