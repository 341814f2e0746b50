// Checkpoints: folders that are whole or absent.
//
//   checkpoints/step-000200/   state.safetensors (every tensor by name), state.json (counters, config hash), manifest.json
//                              (a hash per file)                       `latest` and `best` are links moved by rename
//
// A checkpoint is written as step-N.tmp, every file and the folder flushed, renamed, and the parent flushed. The loader
// verifies the hashes and falls back to the newest good one, and says so on standard error.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "core/safetensors.h"

namespace trimtab {

struct Checkpoint {
  int64_t step = 0;
  TensorFile state;             // parameters, optimiser moments, normalisers, by name
  nlohmann::json counters;      // everything else needed to go on
  std::map<std::string, std::string> blobs;  // opaque state (open episodes of environments), one file each
};

class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path folder);   // .../checkpoints
  void save(const Checkpoint& checkpoint, int64_t keep);     // keeps the newest `keep` (and `best`); CheckpointError on a full disk
  void mark_best(int64_t step);
  std::optional<Checkpoint> load_latest() const;             // newest good one; nullopt when there is none
  Checkpoint load(const std::string& which) const;           // "latest", "best" or a step number; CheckpointError with the list of steps
 private:
  std::filesystem::path folder_;
};

}  // namespace trimtab
