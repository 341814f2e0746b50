// What an evaluation is asked about: runs (training seeds of one experiment), an exported artefact, or `none`
// (the environment's baselines alone) together with the environment they belong to and the data they were
// trained on.
#pragma once

#include <string>
#include <vector>

#include "core/config.h"
#include "envs/evaluation.h"

namespace trimtab {

struct TrainingFile {
  std::string file, hash, split;  // split: "train" or "validation"
};
struct Subject {
  std::string environment;             // its type
  Config config = Config::empty("");   // its env block, overrides applied
  std::vector<AgentFactory> agents;    // one per training seed
  std::vector<TrainingFile> manifest;  // what training saw; refused as evaluation data
};
struct SubjectOptions {
  std::vector<std::string> names;      // run folders, one artefact, or "none"
  std::vector<std::string> overrides;  // env.a.b=c
  std::string config_file;             // for `none`: the configuration whose env block counts
  std::string checkpoint = "best";     // best, latest or a step
};

Subject open_subject(const SubjectOptions& options);

// Runs that are training seeds of one experiment: what they have in common, without their policies.
struct TrainedRuns {
  Config config = Config::empty("");  // the whole configuration, overrides applied
  std::vector<TrainingFile> manifest;
};
// DataError for what is no run folder, ConfigError for runs of different experiments.
TrainedRuns open_runs(const SubjectOptions& options);

// DataError unless `folder` is a run: config.yaml and checkpoints/ are there.
void check_run_folder(const std::string& folder);
// The data files of a run's provenance.json; DataError when it does not say.
std::vector<TrainingFile> training_manifest(const std::string& run_folder);

// "held-out" or "validation" for each file. A file that training saw is a DataError; a validation file too,
// unless allowed. A subject that was not trained has nothing to check against: "unchecked".
std::vector<std::string> check_held_out(const std::vector<TrainingFile>& manifest,
                                        const std::vector<std::string>& files, bool allow_validation);
std::vector<std::string> check_held_out(const Subject& subject, const std::vector<std::string>& files,
                                        bool allow_validation);

}  // namespace trimtab
