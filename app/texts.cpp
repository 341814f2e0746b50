// `trimtab texts SUITE --split test --count 64 --out FILE.jsonl`: problems of a procedural suite with their worked replies as texts, for
// what reads texts (`trimtab measure`, `trimtab eval RECIPE --text`, kv_precision).
#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "app/command.h"
#include "core/config.h"
#include "core/files.h"
#include "domain/tasks/suite.h"

namespace trimtab {
namespace {

struct TextsOptions {
  std::vector<std::string> words;
  std::string split = "train", out, category;
  int64_t count = 64, seed = 1;
  bool prompts = false;
};

int write_texts(const TextsOptions& o) {
  if (o.words.size() != 1)
    throw ConfigError(fmt::format("texts takes one suite, got {}: trimtab texts '{{type: story, prompt_length: 1000}}' --out FILE.jsonl", o.words.size()));
  if (o.out.empty()) throw ConfigError("texts needs --out FILE.jsonl");
  if (o.count < 1 || o.seed < 0) throw ConfigError("--count must be 1 or more, --seed 0 or more");
  const std::map<std::string, Split> splits = {{"train", Split::kTrain}, {"validation", Split::kValidation}, {"test", Split::kTest}};
  const auto split = splits.find(o.split);
  if (split == splits.end()) throw ConfigError(fmt::format("--split {}: the splits are train, validation and test", o.split));
  const std::unique_ptr<Suite> suite = make_suite(Config::parse(o.words[0], "the suite on the command line"));
  std::string lines;
  for (int64_t i = 0; i < o.count; ++i) {
    const uint64_t index = static_cast<uint64_t>(i), seed = static_cast<uint64_t>(o.seed);
    const Problem problem = suite->problem(seed, index, split->second);
    const nlohmann::json line = o.prompts ? nlohmann::json{{"prompt", problem.prompt}, {"answer", problem.answer}, {"category", o.category.empty() ? suite->name() : o.category}}
                                          : nlohmann::json{{"text", problem.prompt + suite->clean_reply(problem, {.seed = seed, .index = index})}};
    lines += line.dump() + "\n";
  }
  write_file_atomically(o.out, lines);
  fmt::print("Written: {}, {} texts of the {} split\n", o.out, o.count, o.split);
  return 0;
}

TT_REGISTER(Verb, texts,
            {.name = "texts",
             .doc = "Write problems of a procedural suite with their worked replies as texts",
             .declare = [](Arguments& a) {
               auto o = std::make_shared<TextsOptions>();
               a.words("SUITE", o->words, "the suite and its keys, YAML: '{type: story, prompt_length: 1000}'");
               a.text("--split", o->split, "train (default), validation or test");
               a.integer("--count", o->count, "texts (default 64)");
               a.integer("--seed", o->seed, "of the problems (default 1)");
               a.flag("--prompts", o->prompts, "problems alone, {\"prompt\", \"answer\", \"category\"} a line: for generate and record");
               a.text("--category", o->category, "of prompts (default: the suite's name)");
               a.text("--out", o->out, "the file, one {\"text\": ...} a line");
               return [o] { return write_texts(*o); };
             }});

}  // namespace
}  // namespace trimtab
