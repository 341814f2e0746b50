#include "core/run_folder.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <optional>

#include "core/error.h"
#include "core/files.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.yaml";
constexpr const char* kFinishedName = "finished";
constexpr const char* kProvenanceName = "provenance.json";
constexpr size_t kStampLength = sizeof("20260101-120000") - 1;

std::string stamp(std::time_t time) {
  std::tm local{};
  localtime_r(&time, &local);
  char text[kStampLength + 1];
  TT_CHECK_EQ(std::strftime(text, sizeof(text), "%Y%m%d-%H%M%S", &local), kStampLength);
  return text;
}

std::string utc(std::time_t time) {
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[sizeof("2026-01-01T12:00:00Z")];
  TT_CHECK_EQ(std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts), sizeof(text) - 1);
  return text;
}

void check_name(const std::string& name) {
  const bool bad =
      name.empty() || name.starts_with(".") || name.find('/') != std::string::npos ||
      std::any_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (bad) throw ConfigError(fmt::format("key 'run.name': '{}' cannot be part of a folder's name", name));
}

// NAME-STAMP or NAME-STAMP-N as {stamp, N}, which sorts by age; nothing for other names.
std::optional<std::pair<std::string, int>> age_of(const std::string& folder, const std::string& name) {
  if (!folder.starts_with(name + "-") || folder.size() < name.size() + 1 + kStampLength) return {};
  const std::string rest = folder.substr(name.size() + 1);
  const std::string_view stamp_text = std::string_view(rest).substr(0, kStampLength);
  for (size_t i = 0; i < kStampLength; ++i) {
    const bool right = i == 8 ? stamp_text[i] == '-' : stamp_text[i] >= '0' && stamp_text[i] <= '9';
    if (!right) return {};
  }
  if (rest.size() == kStampLength) return std::pair(rest, 1);
  int number = 0;
  const char *first = rest.data() + kStampLength + 1, *last = rest.data() + rest.size();
  const auto [end, error] = std::from_chars(first, last, number);
  if (rest[kStampLength] != '-' || error != std::errc() || end != last) return {};
  return std::pair(std::string(stamp_text), number);
}

bool can_resume(const fs::path& folder, const std::string& resolved_config) {
  return fs::is_regular_file(folder / kConfigName) && !fs::exists(folder / kFinishedName) &&
         read_file(folder / kConfigName) == resolved_config;
}

std::optional<fs::path> newest_unfinished(const fs::path& out, const std::string& name,
                                          const std::string& config) {
  if (!fs::is_directory(out)) return {};
  std::vector<std::pair<std::pair<std::string, int>, fs::path>> runs;
  for (const fs::directory_entry& entry : fs::directory_iterator(out)) {
    if (const auto age = age_of(entry.path().filename().string(), name))
      runs.emplace_back(*age, entry.path());
  }
  std::sort(runs.rbegin(), runs.rend());
  for (const auto& [age, path] : runs) {
    if (can_resume(path, config)) return path;
  }
  return {};
}

// Makes BASE, or BASE-2, BASE-3, ... when two runs start in the same second. The one that makes the folder
// owns it.
fs::path make_new_folder(const fs::path& base) {
  fs::create_directories(base.parent_path());
  fs::path folder = base;
  for (int number = 2; !fs::create_directory(folder); ++number) {
    folder = base;
    folder += fmt::format("-{}", number);
  }
  return folder;
}

void move_aside(const fs::path& folder) {
  std::time_t now = std::time(nullptr);
  fs::path aside = folder;
  aside += "-" + stamp(now);
  for (int number = 2; fs::exists(aside); ++number) {
    aside = folder;
    aside += fmt::format("-{}-{}", stamp(now), number);
  }
  fs::rename(folder, aside);
  std::fprintf(stderr, "%s held another run; it is now %s\n", folder.c_str(), aside.c_str());
}

// config.yaml comes last: a folder without it was never a run, and is not resumed.
void write_head(const fs::path& folder, const std::string& config, const nlohmann::json& provenance) {
  write_file_atomically(folder / kProvenanceName, provenance.dump(2) + "\n");
  write_file_atomically(folder / kConfigName, config);
}

RunFolder open_exact(const fs::path& folder, const std::string& config, const nlohmann::json& provenance,
                     bool fresh) {
  if (!fresh && can_resume(folder, config)) return {folder, true};
  if (fs::exists(folder)) {
    const bool is_run = fs::exists(folder / kConfigName) || fs::exists(folder / kProvenanceName);
    if (is_run) {
      move_aside(folder);
    } else if (!fs::is_directory(folder) || !fs::is_empty(folder)) {
      throw ConfigError(
          fmt::format("{}: holds something that is not a run; name another folder", folder.string()));
    }
  }
  fs::create_directories(folder);
  write_head(folder, config, provenance);
  return {folder, false};
}

}  // namespace

RunFolder RunFolder::open(const fs::path& out, const std::string& name, const std::string& resolved_config,
                          const nlohmann::json& provenance, bool fresh, bool exact) {
  check_name(name);
  // "runs/quick/" and "runs/quick" are one folder; the moved-aside name needs the latter form.
  const fs::path base = out.has_filename() || !out.has_parent_path() ? out : out.parent_path();
  try {
    if (exact) return open_exact(base, resolved_config, provenance, fresh);
    if (!fresh) {
      if (const auto path = newest_unfinished(base, name, resolved_config)) return {*path, true};
    }
    const fs::path folder = make_new_folder(base / (name + "-" + stamp(std::time(nullptr))));
    write_head(folder, resolved_config, provenance);
    return {folder, false};
  } catch (const fs::filesystem_error& error) {
    throw ConfigError(
        fmt::format("{}: cannot make or open a run here: {}", out.string(), error.code().message()));
  }
}

void RunFolder::record_resume(int64_t step, const nlohmann::json& facts) const {
  const fs::path file = path / kProvenanceName;
  nlohmann::json provenance = nlohmann::json::parse(read_file(file), nullptr, /*allow_exceptions=*/false);
  if (!provenance.is_object() || !provenance.value("resumes", nlohmann::json::array()).is_array())
    throw DataError(fmt::format(
        "{}: damaged, so the resume cannot be recorded; restore it or start anew with --new", file.string()));
  nlohmann::json entry = facts;
  entry["time"] = utc(std::time(nullptr));
  entry["step"] = step;
  provenance["resumes"].push_back(std::move(entry));
  write_file_atomically(file, provenance.dump(2) + "\n");
}

void RunFolder::mark_finished() const { write_file_atomically(path / kFinishedName, ""); }

bool RunFolder::finished() const { return fs::exists(path / kFinishedName); }

}  // namespace trimtab
