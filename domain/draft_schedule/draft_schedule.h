// The draft schedule of speculative decoding: how many tokens the draft model proposes per round, by the
// number of sequences that are decoded together, and optionally by how many drafted tokens were accepted of
// late.
//
// JSON, UTF-8, at most 1 MiB:
//
//   {"draft_schedule_version": 1,
//    "name": "...", "created_by": "...",                      optional free text
//    "models": {"draft": "9f2c...", "target": "77ab...", "vocabulary": 49152,
//               "draft_source": "..."},                       optional
//    "most": 7,                                               the longest draft a consumer prepares for
//    "entries": [
//      {"batch": [1, 16], "k": 4, "tokens_per_s": 512.5},     the measured fact is optional
//      {"batch": [17, 64], "k": 3,
//       "adaptive": {"ema": 0.2, "warm_up": 10, "interval": 5, "rise_margin": 0.0, "drop_margin": 0.25,
//                    "tiers": [[0.0, 1], [0.5, 3]]}},         [accepted tokens per round at least, k]
//      {"batch": [65, 256], "k": 0}]}
//
// Entries follow one another without holes from batch size 1; k = 0 stops drafting. Reading is strict: an
// unknown, missing or repeated key, a wrong type, a number out of range, a hole or an overlap are a DataError
// "FILE: /json/pointer: what is wrong; what was expected". Background: SmartSpec (arXiv 2406.14066),
// SpecDec++ (2405.19715). Other programs' formats: schedule_formats.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace trimtab {

// k by the exponential moving average (EMA) of the tokens accepted per round, mean over the batch; the tokens
// the target model adds by itself do not count. After `warm_up` rounds and then every `interval` rounds: up
// while the EMA is above the upper tier's at_least + rise_margin, down while it is not above this tier's
// at_least - drop_margin. From k = 0, where nothing can be accepted, it tries the next tier every time.
struct AdaptiveDraft {
  struct Tier {
    double at_least = 0;  // accepted tokens per round; 0 for the lowest tier
    int64_t k = 0;
    bool operator==(const Tier&) const = default;
  };
  std::vector<Tier> tiers;  // 2 to kMostTiers; k rises from one to the next, at_least does not fall
  double ema = 0.2;         // weight of the newest round, (0, 1]
  int64_t warm_up = 10;     // rounds that are only observed
  int64_t interval = 5;     // rounds from one change to the next, at least 1
  double rise_margin = 0;   // accepted tokens per round; may be negative, which makes changes more frequent
  double drop_margin = 0.25;
  bool operator==(const AdaptiveDraft&) const = default;
};

struct DraftEntry {
  int64_t first_batch = 1, last_batch = 1;  // sequences decoded together, both ends included
  // Drafted tokens per round; with tiers, where it starts: the k of one of them.
  int64_t k = 0;
  std::optional<double> tokens_per_s;  // measured or expected, of the whole batch
  std::optional<AdaptiveDraft> adaptive;
  bool operator==(const DraftEntry&) const = default;
};

struct DraftSchedule {
  static constexpr int64_t kVersion = 1;
  static constexpr size_t kMaxBytes = size_t{1} << 20;  // of a file
  static constexpr int64_t kMost = 128;                 // the longest draft of all
  static constexpr int64_t kMostBatch = 1 << 20;
  static constexpr int64_t kMostEntries = 1024, kMostTiers = 16;

  struct Models {
    std::string draft_hash, target_hash;  // of the weights: 8 to 128 lower-case hex digits each
    int64_t vocabulary = 0;               // tokens that both know
    // What a consumer loads the draft model from (folder, name); empty: left out.
    std::string draft_source;
    bool operator==(const Models&) const = default;
  };

  std::string name, created_by;  // UTF-8, one line each, at most 1000 bytes; empty: left out
  Models models;
  int64_t most = 0;  // 1 to kMost; no k is above it
  std::vector<DraftEntry> entries;

  // The entry of a batch size from 1 on. Above the last entry there is no promise (consumers differ:
  // README.md); here the last one.
  const DraftEntry& at(int64_t batch) const;
  bool operator==(const DraftSchedule&) const = default;
};

// DataError "WHAT: /place: fault" when a number is out of range or the parts do not go together.
void check_draft_schedule(const DraftSchedule& schedule, const std::string& what);
// DataError naming both sides when the schedule was made for other weights or another vocabulary.
void check_schedule_fits(const DraftSchedule& schedule, const std::string& draft_hash,
                         const std::string& target_hash, int64_t vocabulary);

DraftSchedule read_draft_schedule(const std::filesystem::path& file);
// `file` stands for it in messages.
DraftSchedule parse_draft_schedule(const std::string& json, const std::string& file);
// Checks the schedule first; parses back to an equal one.
std::string draft_schedule_json(const DraftSchedule& schedule);
// The old file or the new one, never half of it. DataError for a faulty schedule, CheckpointError when the
// disk refuses.
void write_draft_schedule(const DraftSchedule& schedule, const std::filesystem::path& file);

}  // namespace trimtab
