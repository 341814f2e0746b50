// What leaves the house: a trained controller as an artefact (.ttc.safetensors, read by runtime/) and as one C header.
// Normalisation, masks and action bounds are inside both; both carry test vectors with their answers.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/spec.h"
#include "policies/controllers/controller.h"

namespace trimtab {

struct ExportedAgent {
  AgentSpec spec;
  const Controller* policy = nullptr;
  std::string meaning;                   // of the action, one sentence
  double deadline_us = 0;                // by when the host needs the answer; 0: none stated
  std::vector<float> fallback;           // safe action of an index or a Gaussian; empty: index 0, the middle of the range. Of a
                                         // subset and an order it is to take nothing, of shares equal ones
};
struct ExportInfo {
  std::string environment;               // its type
  std::string config;                    // its resolved block, YAML
  std::string training_data_hash;        // of the files trained on, separated by spaces
  std::vector<std::string> glue;         // between the agents, by name: "tt_quotas", "tt_assign_fast", "tt_spread_power"
  uint64_t seed = 1;                     // of the test vectors
  int num_self_tests = 16;
};

// The file's bytes; CheckpointError when the runtime, asked at once, does not give the policy's own answers.
std::string artefact_bytes(const std::vector<ExportedAgent>& agents, const ExportInfo& info);
void export_artefact(const std::filesystem::path& file, const std::vector<ExportedAgent>& agents, const ExportInfo& info);

// One self-contained C header (C11, <math.h> and <string.h> only): weights as constants, per agent
//   static inline void NAME_decide(const float* context, const float* items, const unsigned char* mask, int num_items, float* action)
// and `static inline float trimtab_self_test(void)`, the largest difference from the stored answers.
std::string header_text(const std::vector<ExportedAgent>& agents, const ExportInfo& info);
void export_header(const std::filesystem::path& file, const std::vector<ExportedAgent>& agents, const ExportInfo& info);

// Observations drawn where the policy has been: within three deviations of its normaliser's mean and inside the features'
// ranges; every fourth with items absent. actions are the policy's mode. Of a choice or an order a vector is drawn again where
// logits that decide the answer are nearly equal, since rounding may tell them apart otherwise.
struct TestVectors {
  int64_t count = 0;
  std::vector<float> context, items, actions;   // [count, C], [count, U, F], [count, width]
  std::vector<uint8_t> mask;                    // [count, U]
};
TestVectors make_test_vectors(const ExportedAgent& agent, int64_t count, uint64_t seed);

}  // namespace trimtab
