// `trimtab record adapters MODEL --adapters FOLDER... --prompts FILE... --out TABLE`: how good the answers of a base model's adapters are, for routers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace trimtab {

struct AdapterRecordWords {
  std::vector<std::string> models;                // one
  std::vector<std::string> adapters, prompts;
  std::string out, checkpoint = "best";
  int64_t max_tokens = 128, embedding = 32, samples = 1, threads = 0, seed = 1;
  double temperature = 0;
};
int record_adapters(const AdapterRecordWords& words);
// `trimtab record embeddings MODEL --prompts FILE... --out REQUESTS.jsonl`: prompts with the embedding that the tables have of them, for a router that serves.
int record_embeddings(const AdapterRecordWords& words);

}  // namespace trimtab
