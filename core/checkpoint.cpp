#include "core/checkpoint.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "core/disk.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"

namespace trimtab {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kFormat = 1;
constexpr const char *kManifest = "manifest.json", *kTensors = "state.safetensors", *kState = "state.json";
constexpr const char* kBlobSuffix = ".blob";
constexpr const char* kStepPrefix = "step-";

std::string folder_name(int64_t step) { return fmt::format("{}{:06}", kStepPrefix, step); }

std::optional<int64_t> step_of(const std::string& text) {
  int64_t step = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), step);
  if (error != std::errc() || end != text.data() + text.size() || step < 0) return {};
  return step;
}

// std::filesystem's own errors as ours.
template <class Action>
auto with_checkpoint_errors(const Action& action) {
  try {
    return action();
  } catch (const fs::filesystem_error& error) {
    throw CheckpointError(fmt::format("{}: {}", error.path1().string(), error.code().message()));
  }
}

std::map<std::string, std::string> files_of(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> files;
  files[kTensors] = serialise_safetensors(checkpoint.state);
  files[kState] = Json({{"step", checkpoint.step}, {"counters", checkpoint.counters}}).dump() + "\n";
  for (const auto& [name, bytes] : checkpoint.blobs) {
    const auto allowed = [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '-';
    };
    TT_CHECK(!name.empty() && std::all_of(name.begin(), name.end(), allowed), "blob '{}'", name);
    files[name + kBlobSuffix] = bytes;
  }
  return files;
}

std::string manifest_of(const std::map<std::string, std::string>& files) {
  Json manifest = {{"format", kFormat}, {"files", Json::object()}};
  for (const auto& [name, bytes] : files)
    manifest["files"][name] = {{"bytes", bytes.size()}, {"xxh3_128", hash_bytes(bytes)}};
  manifest["xxh3_128"] = hash_bytes(manifest.dump());  // of the manifest without this line
  return manifest.dump() + "\n";
}

// Written by a later version than this one: not damaged, and not to be given up for an older checkpoint.
struct NewerFormat : CheckpointError {
  using CheckpointError::CheckpointError;
};

// The files a good manifest names; CheckpointError with the defect otherwise.
Json read_manifest(const fs::path& folder) {
  const std::string text = read_file(folder / kManifest);
  Json manifest = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto dump = [&] { return manifest.dump(-1, ' ', false, Json::error_handler_t::replace); };
  // Exactly as written: a change that JSON does not mind is damage too.
  if (!manifest.is_object() || !manifest.contains("xxh3_128") || dump() + "\n" != text)
    throw CheckpointError("its manifest.json is damaged");
  const Json own = manifest["xxh3_128"];
  manifest.erase("xxh3_128");
  if (own != hash_bytes(dump())) throw CheckpointError("its manifest.json is damaged");
  const int64_t format = manifest.value("format", int64_t{0});
  if (format > kFormat)
    throw NewerFormat(fmt::format("it was written by a newer trimtab (checkpoint format {}, this one reads {})", format, kFormat));
  if (format != kFormat) throw CheckpointError(fmt::format("it has the unknown checkpoint format {}", format));
  return manifest.at("files");
}

Checkpoint read_checkpoint(const fs::path& folder) {
  std::map<std::string, std::string> files;
  const Json listed = read_manifest(folder);
  for (const auto& [name, entry] : listed.items()) {
    std::string bytes = read_file(folder / name);
    if (hash_bytes(bytes) != entry.at("xxh3_128")) throw CheckpointError(name + " does not match its hash");
    files[name] = std::move(bytes);
  }
  Checkpoint out;
  const std::string& tensors = files.at(kTensors);
  out.state = parse_safetensors({reinterpret_cast<const uint8_t*>(tensors.data()), tensors.size()},
                                (folder / kTensors).string());
  const Json state = Json::parse(files.at(kState));
  out.step = state.at("step");
  out.counters = state.at("counters");
  for (auto& [name, bytes] : files) {
    if (name.ends_with(kBlobSuffix))
      out.blobs[name.substr(0, name.size() - std::strlen(kBlobSuffix))] = std::move(bytes);
  }
  return out;
}

// A checkpoint, or the sentence that says what is wrong with it. CheckpointError for one of a later version.
struct Attempt {
  std::optional<Checkpoint> checkpoint;
  std::string defect;
};
Attempt try_read(const fs::path& folder) {
  try {
    return {read_checkpoint(folder), ""};
  } catch (const NewerFormat& error) {
    throw CheckpointError(fmt::format("{}: {}; go on with that version, or remove this step to go on from the one before it",
                                      folder.string(), error.what()));
  } catch (const std::exception& error) {  // also JSON's and the map's: a manifest may be well hashed and still odd
    return {{}, error.what()};
  }
}

void move_link(const fs::path& folder, const std::string& link, const std::string& target) {
  const fs::path beside = folder / (link + ".tmp");
  disk::must(disk::remove_tree(beside), beside);
  disk::must(disk::make_link(target, beside), beside);
  disk::must(disk::rename(beside, folder / link), folder / link);
  flush_folder(folder);
}

// Puts `made` where `place` is. A checkpoint of the same step that is there already changes places with it in
// one step.
void put_in_place(const fs::path& made, const fs::path& place) {
  if (fs::exists(place)) {
    if (disk::exchange(made, place) == 0) return;
    if (errno != EINVAL && errno != ENOSYS) disk::must(-1, place);
    disk::must(disk::remove_tree(place), place);  // a file system without the exchange
  }
  disk::must(disk::rename(made, place), place);
}

// Through the .tmp name, so that a kill in the middle leaves a folder nobody takes for a checkpoint.
void remove_checkpoint(const fs::path& folder, int64_t step) {
  const fs::path doomed = folder / (folder_name(step) + ".tmp");
  disk::must(disk::remove_tree(doomed), doomed);
  disk::must(disk::rename(folder / folder_name(step), doomed), doomed);
  disk::must(disk::remove_tree(doomed), doomed);
}

std::optional<int64_t> linked_step(const fs::path& folder, const char* link) {
  std::error_code error;
  const std::string target = fs::read_symlink(folder / link, error).string();
  if (error || !target.starts_with(kStepPrefix)) return {};
  return step_of(target.substr(std::strlen(kStepPrefix)));
}

void remove_leftovers(const fs::path& folder) {
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kStepPrefix) && name.ends_with(".tmp")) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) disk::must(disk::remove_tree(path), path);
}

}  // namespace

CheckpointFolder::CheckpointFolder(fs::path folder) : folder_(std::move(folder)) {}

std::vector<int64_t> CheckpointFolder::steps() const {
  std::vector<int64_t> out;
  if (!fs::is_directory(folder_)) return out;
  with_checkpoint_errors([&] {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(kStepPrefix)) continue;
      const auto step = step_of(name.substr(std::strlen(kStepPrefix)));
      if (step && folder_name(*step) == name) out.push_back(*step);
    }
  });
  std::sort(out.begin(), out.end());
  return out;
}

void CheckpointFolder::save(const Checkpoint& checkpoint, int64_t keep) {
  TT_CHECK_GE(keep, 1);
  TT_CHECK_GE(checkpoint.step, 0);
  std::map<std::string, std::string> files = files_of(checkpoint);
  files[kManifest] = manifest_of(files);
  const std::string name = folder_name(checkpoint.step);
  const fs::path made = folder_ / (name + ".tmp");
  with_checkpoint_errors([&] {
    disk::must(disk::make_folders(folder_), folder_);
    remove_leftovers(folder_);
    disk::must(disk::make_folder(made), made);
    try {
      for (const auto& [file, bytes] : files) write_file_flushed(made / file, bytes);
      flush_folder(made);
    } catch (...) {
      std::error_code ignored;
      fs::remove_all(made, ignored);  // on a full disk the space matters
      throw;
    }
    put_in_place(made, folder_ / name);
    flush_folder(folder_);
    move_link(folder_, "latest", name);

    std::vector<int64_t> present = steps();
    const auto best = linked_step(folder_, "best");
    const auto this_one = std::find(present.begin(), present.end(), checkpoint.step);
    const int64_t before = std::min<int64_t>(keep - 1, this_one - present.begin());
    for (auto it = present.begin(); it != present.end(); ++it) {
      const bool kept = (it <= this_one && it >= this_one - before) || best == *it;
      if (!kept) remove_checkpoint(folder_, *it);
    }
    remove_leftovers(folder_);
  });
}

void CheckpointFolder::mark_best(int64_t step) {
  if (!fs::is_directory(folder_ / folder_name(step)))
    throw CheckpointError(fmt::format("{}: there is no step {} to mark as best", folder_.string(), step));
  with_checkpoint_errors([&] { move_link(folder_, "best", folder_name(step)); });
}

void CheckpointFolder::go_on_from(int64_t step, bool best) {
  if (linked_step(folder_, "latest") != step)
    with_checkpoint_errors([&] { move_link(folder_, "latest", folder_name(step)); });
  if (best && linked_step(folder_, "best") != step) mark_best(step);
}

std::optional<Checkpoint> CheckpointFolder::load_latest() const {
  const std::vector<int64_t> present = steps();
  for (auto it = present.rbegin(); it != present.rend(); ++it) {
    const fs::path folder = folder_ / folder_name(*it);
    Attempt attempt = try_read(folder);
    if (attempt.checkpoint) {
      if (it != present.rbegin()) std::fprintf(stderr, "going on from %s instead\n", folder.c_str());
      return std::move(attempt.checkpoint);
    }
    std::fprintf(stderr, "%s cannot be used: %s\n", folder.c_str(), attempt.defect.c_str());
  }
  if (present.empty()) return {};
  throw CheckpointError(fmt::format(
      "{}: every checkpoint is damaged; remove the folder to start from the beginning", folder_.string()));
}

Checkpoint CheckpointFolder::load(const std::string& which) const {
  const std::vector<int64_t> present = steps();
  const auto fail = [&](const std::string& problem) {
    std::vector<std::string> words;
    words.reserve(present.size());
    for (const int64_t step : present) words.push_back(std::to_string(step));
    const std::string there = words.empty() ? "none" : join(words, ", ");
    throw CheckpointError(fmt::format("{}: {}; steps there are: {}", folder_.string(), problem, there));
  };
  if (which == "latest") {
    if (auto checkpoint = load_latest()) return std::move(*checkpoint);
    fail("there is no checkpoint yet");
  }
  const auto step = which == "best" ? linked_step(folder_, "best") : step_of(which);
  if (!step && which == "best") fail("no checkpoint is marked as best");
  if (!step) fail(fmt::format("expected latest, best or a step number, got '{}'", which));
  if (!std::binary_search(present.begin(), present.end(), *step))
    fail(fmt::format("there is no step {}", *step));
  Attempt attempt = try_read(folder_ / folder_name(*step));
  if (!attempt.checkpoint) fail(fmt::format("step {} cannot be used: {}", *step, attempt.defect));
  return std::move(*attempt.checkpoint);
}

}  // namespace trimtab
