// Our side of the speculative benchmark: whole generate() calls, packing of the weights and reading of the prompts included.
//
//   bench_speculative --target DIR --draft DIR --prompts FILE --length K --threads T      a worker: greedy, one sequence after the other
//   the same without --draft                                                              plain generation
//   bench_speculative --target DIR --encode PROMPTS.jsonl --prompts FILE                  writes prompts as ids, which both sides read
//   bench_speculative --lookup                                                            ns of the suffix tree per token, as JSON
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "bench/worker.h"
#include "core/files.h"
#include "core/random.h"
#include "core/text.h"
#include "engine/speculative/speculative.h"
#include "policies/language/pretrained.h"

namespace trimtab {
namespace {

std::vector<GenerationRequest> requests_of(const Arguments& a) {
  std::vector<GenerationRequest> requests;
  for (const auto& ids : nlohmann::json::parse(read_file(a.values.at("--prompts")))) requests.push_back({.prompt = ids.get<std::vector<int32_t>>()});
  return requests;
}

int encode(const Arguments& a) {
  const LanguageModel model = LanguageModel::load(a.values.at("--target"));
  nlohmann::json out;
  for (const std::string& line : split(read_file(a.values.at("--encode")), '\n'))
    if (!line.empty()) out.push_back(model.tokenizer->encode(nlohmann::json::parse(line).at("prompt").get<std::string>(), {.allow_special = true, .add_special_tokens = true}));
  write_file_atomically(a.values.at("--prompts"), out.dump());
  return 0;
}

int work(const Arguments& a) {
  const Transformer target = Transformer::read(a.values.at("--target"));
  const auto requests = requests_of(a);
  Pool pool(static_cast<int>(a.number("--threads", 1)));
  const SamplingOptions greedy{.max_tokens = a.number("--new", 128), .temperature = 0};
  std::unique_ptr<Transformer> draft;
  std::unique_ptr<SpeculativeDecoder> decoder;
  Generator plain(target, {.max_sequences = 1});
  if (a.has("--draft")) {
    draft = std::make_unique<Transformer>(Transformer::read(a.values.at("--draft")));
    decoder = std::make_unique<SpeculativeDecoder>(target, *draft, SpeculativeOptions{.max_sequences = 1, .most_drafted = std::max<int64_t>(1, a.number("--length", 4))});
  }
  FixedDraft control(a.number("--length", 4));
  const auto measure = [&] {
    std::vector<std::vector<int32_t>> tokens;
    const auto start = Clock::now();
    if (decoder != nullptr)
      for (const auto& c : decoder->generate(requests, greedy, {}, 1, control, pool)) tokens.push_back(c.completion.tokens);
    else
      for (const auto& c : plain.generate(requests, greedy, {}, 1, pool)) tokens.push_back(c.tokens);
    const double seconds = seconds_since(start);
    int64_t made = 0;
    for (const auto& t : tokens) made += static_cast<int64_t>(t.size());
    nlohmann::json out = {{"rate", static_cast<double>(made) / seconds}, {"made", made}, {"tokens", tokens}};
    if (decoder != nullptr) {
      const SpeculativeTimes& t = decoder->times();
      out["tokens_per_pass"] = static_cast<double>(t.tokens) / static_cast<double>(t.target_passes), out["draft_s"] = t.draft_s, out["verify_s"] = t.verify_s;
      out["draft_passes"] = t.draft_passes;
    }
    return out;
  };
  measure();
  serve({{"ready", true}}, measure);
  return 0;
}

// A text of 50,000 tokens: drawn alike from 32,000, or copies of its own pieces; a token appended and a draft of eight asked for.
int lookup() {
  nlohmann::json out;
  for (const bool copies : {false, true}) {
    std::vector<double> rounds;
    for (uint32_t round = 0; round < 7; ++round) {
      Draws draws(1 + round, Stream::kTest);
      std::vector<int32_t> text;
      while (text.size() < 50000) {
        if (!copies || text.size() < 200) {
          text.push_back(static_cast<int32_t>(draws.below(32000)));
          continue;
        }
        const size_t from = draws.below(static_cast<uint32_t>(text.size() - 60));
        for (size_t i = 0; i < 50; ++i) text.push_back(text[from + i]);
      }
      DrafterOptions options;
      const auto drafter = make_drafter(options);
      drafter->begin(0, std::span(text).first(200));
      int64_t drafted = 0;
      const auto start = Clock::now();
      for (size_t i = 200; i < text.size(); ++i) {
        drafter->append(0, std::span(text).subspan(i, 1));
        drafted += drafter->draft(0, 8).size();
      }
      rounds.push_back(seconds_since(start) * 1e9 / static_cast<double>(text.size() - 200));
      if (drafted < 0) return 1;
    }
    out[copies ? "copies" : "uniform"] = rounds;
  }
  std::cout << out << std::endl;
  return 0;
}

}  // namespace
}  // namespace trimtab

int main(int count, char** words) {
  at::set_num_threads(1);
  const trimtab::Arguments a(count, words);
  return a.has("--lookup") ? trimtab::lookup() : a.has("--encode") ? trimtab::encode(a) : trimtab::work(a);
}
