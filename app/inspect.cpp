// `trimtab inspect FILE [a.b=c]`: what is in a channel trace, a safetensors file or artefact, a checkpoint
// folder, or a language model in a Hugging Face folder, with its hash and sanity figures. A file that cannot
// be used ends with exit code 3 and a sentence that says why.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "core/checkpoint.h"
#include "core/config.h"
#include "core/files.h"
#include "core/json_shape.h"
#include "core/safetensors.h"
#include "domain/radio/trace.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct InspectOptions {
  std::vector<std::string> words;
  bool json = false, untrusted = false;
};

// Trace values may be given by their own name or as they stand in a run's configuration:
// env.trace.num_prb=51.
radio::TraceOptions trace_options(const std::vector<std::string>& overrides) {
  Config config = Config::empty("the command line");
  for (std::string text : overrides) {
    if (text.starts_with("+")) text.erase(0, 1);
    for (const char* prefix : {"env.trace.", "data.trace.", "trace."}) {
      if (text.rfind(prefix, 0) == 0) text.erase(0, std::strlen(prefix));
    }
    config.apply(text);
  }
  radio::TraceOptions options;
  config.read(options);
  return options;
}

json inspect_trace_file(const fs::path& file, const std::vector<std::string>& overrides, bool untrusted) {
  json sanity;
  radio::TraceOptions options = trace_options(overrides);
  options.untrusted = options.untrusted || untrusted;
  const radio::TraceInfo info = radio::inspect_trace(file, options, &sanity);
  json out = info.to_json();
  out["kind"] = "trace";
  out["sanity"] = sanity;
  return out;
}

json tensor_line(const std::string& name, const Tensor& tensor, const fs::path& file) {
  json line = {{"name", name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}};
  if (tensor.dtype != "F32") return line;
  double low = INFINITY, high = -INFINITY;
  for (const float value : tensor.as_f32()) {
    if (!std::isfinite(value))
      throw DataError(
          fmt::format("{}: tensor '{}' holds a value that is not finite; the file is damaged or the training "
                      "run diverged: use an earlier checkpoint",
                      file.string(), name));
    low = std::min<double>(low, value);
    high = std::max<double>(high, value);
  }
  if (low <= high) line["min"] = low, line["max"] = high;
  return line;
}

json parsed_or_text(const std::string& text) {
  constexpr size_t kDeepest = 64;  // deeper ones would end the process where they are printed
  if (json_shape(text).depth > kDeepest) return text;
  json parsed = json::parse(text, nullptr, false);
  return parsed.is_discarded() ? json(text) : parsed;
}

json inspect_tensors(const fs::path& file) {
  const TensorFile contents = read_safetensors(file);
  json out = {{"kind", file.string().ends_with(".ttc.safetensors") ? "artefact" : "safetensors"},
              {"file", file.string()},
              {"bytes", fs::file_size(file)},
              {"hash", hash_file(file)},
              {"tensors", json::array()},
              {"metadata", json::object()}};
  int64_t values = 0;
  for (const auto& [name, tensor] : contents.tensors) {
    out["tensors"].push_back(tensor_line(name, tensor, file));
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    values += count;
  }
  out["num_values"] = values;
  for (const auto& [key, value] : contents.metadata) out["metadata"][key] = parsed_or_text(value);
  return out;
}

bool is_language_model(const fs::path& folder) {
  return fs::exists(folder / "config.json") && !fs::exists(folder / "config.yaml");
}

// `folder` is .../checkpoints/step-000200, .../checkpoints (its latest), or a run folder.
json inspect_folder(fs::path folder) {
  folder = fs::weakly_canonical(folder);
  std::string which = "latest";
  fs::path checkpoints = folder;
  if (const std::string name = folder.filename().string(); name.starts_with("step-")) {
    which = name.substr(name.find_first_not_of('0', std::strlen("step-")));
    checkpoints = folder.parent_path();
  } else if (fs::is_directory(folder / "checkpoints")) {
    checkpoints = folder / "checkpoints";
  } else if (folder.filename() != "checkpoints") {
    throw DataError(
        fmt::format("{}: neither a run folder nor a checkpoint; give a run, its checkpoints/step-N, a trace "
                    "(.h5), a .safetensors file or a Hugging Face folder",
                    folder.string()));
  }
  const Checkpoint checkpoint = CheckpointFolder(checkpoints).load(which);
  json out = {{"kind", "checkpoint"},     {"file", checkpoints.string()},
              {"step", checkpoint.step},  {"counters", checkpoint.counters},
              {"tensors", json::array()}, {"blobs", json::object()}};
  for (const auto& [name, tensor] : checkpoint.state.tensors)
    out["tensors"].push_back(tensor_line(name, tensor, checkpoints));
  for (const auto& [name, bytes] : checkpoint.blobs) out["blobs"][name] = bytes.size();
  return out;
}

bool is_trace(const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".h5" || extension == ".hdf5" || extension == ".hdf") return true;
  if (extension == ".safetensors") return false;
  char start[8] = {};
  std::ifstream(file, std::ios::binary).read(start, sizeof(start));
  return std::memcmp(start, "\x89HDF\r\n\x1a\n", sizeof(start)) == 0;
}

void print_value(const std::string& key, const json& value) {
  if (value.is_object()) {
    fmt::print("{}:\n", key);
    for (const auto& [inner, item] : value.items())
      fmt::print("  {:<26} {}\n", inner, item.is_string() ? item.get<std::string>() : item.dump());
  } else if (key == "tensors") {
    fmt::print("tensors:\n");
    for (const json& t : value) {
      const std::string range = t.contains("min") ? fmt::format("  [{:.4g}, {:.4g}]", t["min"].get<double>(),
                                                                t["max"].get<double>())
                                                  : "";
      fmt::print("  {:<40} {:<4} {}{}\n", t["name"].get<std::string>(), t["dtype"].get<std::string>(),
                 t["shape"].dump(), range);
    }
  } else {
    fmt::print("{:<28} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

int inspect(InspectOptions options) {
  const std::vector<std::string> overrides = take_overrides(options.words);
  if (options.words.size() != 1)
    throw ConfigError(
        fmt::format("inspect takes one file, got {}: trimtab inspect FILE [a.b=c]", options.words.size()));
  const fs::path file = options.words[0];
  if (!fs::exists(file)) throw DataError(fmt::format("{}: no such file or folder", file.string()));
  const json out = is_language_model(file) ? language_tools("reading a language model").inspect(file.string())
                   : fs::is_directory(file) ? inspect_folder(file)
                   : is_trace(file)         ? inspect_trace_file(file, overrides, options.untrusted)
                                            : inspect_tensors(file);
  if (options.json) {
    fmt::print("{}\n", out.dump(2));
  } else {
    for (const auto& [key, value] : out.items()) print_value(key, value);
  }
  return 0;
}

TT_REGISTER(Verb, inspect,
            {.name = "inspect",
             .doc = "Show what is in a trace, checkpoint or artefact; exit code 3 when it cannot be used",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<InspectOptions>();
               a.words("FILE", options->words,
                       "the file or folder, and a.b=c for values a trace's attributes lack");
               a.flag("--json", options->json, "machine-readable output");
               a.flag("--untrusted", options->untrusted, "a trace: a child process of bounded memory and time reads it first");
               return [options] { return inspect(*options); };
             }});

}  // namespace
}  // namespace trimtab
