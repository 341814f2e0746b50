// `trimtab doctor [ARTEFACT...]`: versions, devices and dependencies, whether the bundled data is whole, and
// the self-test vectors of exported controllers. Exit code 0 when everything needed is there, 3 for a bad
// artefact, 4 otherwise.
#include <H5public.h>
#include <fmt/format.h>
#include <hwy/targets.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "app/units.h"
#include "core/run_folder.h"
#include "domain/radio/link.h"
#include "trainers/language_tools.h"
#include "trimtab/runtime.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct DoctorOptions {
  std::vector<std::string> artefacts;
  bool json = false;
};

struct Finding {
  std::string item, text;
  enum class State { kOk, kAbsent, kBroken } state = State::kOk;  // absent: optional and not there
};

std::string vector_units() {
  std::vector<std::string> names;
  for (int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1)
    names.push_back(hwy::TargetName(rest & -rest));
  return fmt::format("{}", fmt::join(names, ", "));
}

Finding check(const std::string& item, const std::function<std::string()>& look) {
  try {
    return {item, look()};
  } catch (const std::exception& error) {
    return {item, error.what(), Finding::State::kBroken};
  }
}

Finding optional_file(const std::string& item, const fs::path& file, const std::string& cure) {
  if (fs::exists(file)) return {item, "present"};
  return {item, "not installed; " + cure, Finding::State::kAbsent};
}

Finding language_models() {
  if (has_language_tools()) return {"language models", "built in"};
  return {"language models", "not built in; build with -DTRIMTAB_TORCH=ON", Finding::State::kAbsent};
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

// Opening runs the file's own test vectors through the runtime.
Finding self_test(const std::string& file) {
  return check(file, [&] {
    tt_controller* controller = nullptr;
    char why[512] = "";
    tt_open_options options = TT_OPEN_OPTIONS_INIT;
    options.run_self_test = 0;  // here below, for its figure
    if (tt_open(file.c_str(), &options, &controller, why, sizeof(why)) != TT_OK) throw DataError(why);
    float worst = 0;
    const tt_status status = tt_self_test(controller, &worst);
    const int agents = tt_num_agents(controller);
    tt_close(controller);
    if (status != TT_OK)
      throw DataError(fmt::format("the self-test vectors differ by {:.2g}; export the run again", worst));
    return fmt::format("{} agents, self-test passed (largest difference {:.2g})", agents, worst);
  });
}

std::vector<Finding> examine(const DoctorOptions& options) {
  std::vector<Finding> out;
  const json machine = hardware_and_version();
  for (const auto& [key, value] : machine.items())
    out.push_back({key, value.is_string() ? value.get<std::string>() : value.dump()});
  out.push_back({"vector units", vector_units()});
  out.push_back(
      {"libraries", fmt::format("HDF5 {}, fmt {}, xxHash {}, nlohmann-json {}.{}.{}", hdf5_version(),
                                FMT_VERSION, XXH_versionNumber(), NLOHMANN_JSON_VERSION_MAJOR,
                                NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)});
  out.push_back(
      optional_file("GPU driver", "/proc/driver/nvidia/version", "training and evaluation use the CPU"));
  out.push_back(optional_file("LibTorch", source_tree() / ".deps/torch/lib/libtorch_cpu.so",
                              "scripts/setup --torch unpacks it (needed by language models)"));
  out.push_back(language_models());
  out.push_back(check("link tables", [] {
    radio::BlerTables::get();
    return std::string("block error rate tables load");
  }));
  for (const std::string& kind : kUnitKinds)
    out.push_back(check(kind, [&] { return fmt::format("{} known", units_of(kind).size()); }));
  for (const std::string& file : options.artefacts) out.push_back(self_test(file));
  return out;
}

int doctor(const DoctorOptions& options) {
  const std::vector<Finding> findings = examine(options);
  bool broken = false, bad_artefact = false;
  json out = json::array();
  for (const Finding& f : findings) {
    const char* state = f.state == Finding::State::kOk       ? "ok"
                        : f.state == Finding::State::kAbsent ? "absent"
                                                             : "broken";
    broken = broken || f.state == Finding::State::kBroken;
    const bool is_artefact =
        std::find(options.artefacts.begin(), options.artefacts.end(), f.item) != options.artefacts.end();
    bad_artefact = bad_artefact || (is_artefact && f.state == Finding::State::kBroken);
    if (options.json) {
      out.push_back({{"item", f.item}, {"state", state}, {"text", f.text}});
    } else {
      fmt::print("  {:<7} {:<16} {}\n", state, f.item, f.text);
    }
  }
  if (options.json) fmt::print("{}\n", json{{"healthy", !broken}, {"findings", out}}.dump(2));
  if (bad_artefact) return static_cast<int>(ExitCode::kData);
  return static_cast<int>(broken ? ExitCode::kRunFailed : ExitCode::kOk);
}

TT_REGISTER(Verb, doctor,
            {.name = "doctor",
             .doc = "Check versions, devices, dependencies and the self-tests of exported controllers",
             .declare = [](Arguments& a) {
               auto options = std::make_shared<DoctorOptions>();
               a.words("ARTEFACT", options->artefacts,
                       "exported controllers whose self-test vectors are to be run");
               a.flag("--json", options->json, "machine-readable output");
               return [options] { return doctor(*options); };
             }});

}  // namespace
}  // namespace trimtab
