// Checkpoints: folders that are whole or absent.
//
//   checkpoints/step-000200/   state.safetensors (every tensor by name), state.json (step and counters),
//   NAME.blob,
//                              manifest.json (size and hash of each file, and its own)
//   checkpoints/latest, best   links, moved by rename
//
// A checkpoint is written as step-N.tmp, every file and the folder flushed, renamed, and the parent flushed.
// The loader verifies the hashes and falls back to the newest good one, and says so on standard error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/safetensors.h"

namespace trimtab {

struct Checkpoint {
  int64_t step = 0;
  TensorFile state;         // parameters, optimiser moments, normalisers, by name
  nlohmann::json counters;  // everything else needed to go on; finite numbers come back bit-equal
  std::map<std::string, std::string> blobs;  // opaque state (open episodes of environments), one file each;
                                             // names of letters, digits, '_' and '-'
};

class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::filesystem::path folder);  // .../checkpoints; made by the first save
  // Keeps the newest `keep` (at least 1) and `best`; later steps than this one belong to a past that was
  // given up, and go. CheckpointError when it cannot be written (disk full, ...); what was there before stays
  // good.
  void save(const Checkpoint& checkpoint, int64_t keep);
  void mark_best(int64_t step);
  // What a kill behind the checkpoint's rename has left undone, for who goes on from it: `latest` names it, and `best` where it is that.
  void go_on_from(int64_t step, bool best);
  // The newest good one; nullopt when there is none at all; CheckpointError when there are some and every one
  // is damaged.
  std::optional<Checkpoint> load_latest() const;
  Checkpoint load(const std::string& which)
      const;  // "latest", "best" or a step number; CheckpointError with the list of steps
  std::vector<int64_t> steps() const;  // oldest first, good or not

 private:
  std::filesystem::path folder_;
};

}  // namespace trimtab
