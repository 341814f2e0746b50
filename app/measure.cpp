// `trimtab measure MODEL --text FILE... --out TABLE`: how much a model's next-token distribution suffers when one layer's (or KV head's)
// cache is narrow, for every pair of widths: what kv_precision trains on and width searches need.
#include <fmt/format.h>

#include <memory>

#include "app/command.h"
#include "core/config.h"
#include "core/files.h"
#include "core/text.h"
#include "trainers/language_tools.h"

namespace trimtab {
namespace {

struct MeasureOptions {
  std::vector<std::string> words, texts;
  std::string out, pairs = "8x8,8x4,4x4,4x2,2x2", checkpoint = "best";
  int64_t window = 1024, pieces = 0, threads = 0;
  bool per_head = false;
};

struct CacheBlock {
  KvCacheOptions kv;
  void describe(Fields& f) { f.block("kv", kv, "the cache"); }
};

std::vector<KvBits> parse_pairs(const std::string& text) {
  std::vector<KvBits> out;
  for (const std::string& word : split(text, ',')) {
    int key = 0, value = 0;
    char rest = 0;
    if (std::sscanf(word.c_str(), "%dx%d%c", &key, &value, &rest) != 2 || key < 0 || key > 16 || value < 0 || value > 16)
      throw ConfigError(fmt::format("--pairs {}: '{}' is no pair of widths; write KEYSxVALUES such as 8x4", text, word));
    out.push_back({static_cast<uint8_t>(key), static_cast<uint8_t>(value)});
  }
  return out;
}

void print_table(const KvSensitivity& t) {
  fmt::print("{:>8}", t.per_head ? "head" : "layer");
  for (const KvBits b : t.pairs) fmt::print("{:>11}", fmt::format("K{}V{}", b.key, b.value));
  fmt::print("   KL to 16 bits, nats per token\n");
  for (int64_t u = 0; u < t.units(); ++u) {
    fmt::print("{:>8}", t.per_head ? fmt::format("{}.{}", u / t.kv_heads, u % t.kv_heads) : std::to_string(u));
    for (const double kl : t.kl[u]) fmt::print("{:>11.2e}", kl);
    fmt::print("\n");
  }
  fmt::print("{:>8}", "bits");
  for (size_t p = 0; p < t.pairs.size(); ++p) fmt::print("{:>11.3f}", t.bits(t.units() * t.unit_bytes(static_cast<int64_t>(p))));
  fmt::print("   scales included\n{:>8}", "ns");
  for (const double ns : t.page_ns) fmt::print("{:>11.0f}", ns);
  fmt::print("   a page of one KV head, one query token, on this machine\n");
}

int measure(MeasureOptions options) {
  std::vector<std::string> overrides = take_overrides(options.words);
  for (const std::string& text : take_overrides(options.texts)) overrides.push_back(text);
  if (options.words.size() != 1) throw ConfigError(fmt::format("measure takes one model, got {}: trimtab measure RUN|FOLDER --text FILE --out TABLE", options.words.size()));
  if (options.texts.empty() || options.out.empty()) throw ConfigError("measure needs --text FILE... and --out TABLE.safetensors");
  if (options.window < 2 || options.pieces < 0 || options.threads < 0) throw ConfigError("--window must be 2 or more, --pieces and --threads 0 or more");
  CacheBlock cache;
  Config config = Config::empty("the command line");
  for (const std::string& text : overrides) config.apply(text);
  config.read(cache);
  const KvSensitivity table = language_tools("measuring a KV cache")
                                  .measure({.model = {options.words[0], options.checkpoint}, .texts = options.texts, .cache = cache.kv,
                                            .pairs = parse_pairs(options.pairs), .per_head = options.per_head, .window = options.window,
                                            .pieces = options.pieces, .threads = options.threads});
  write_sensitivity(table, options.out);
  print_table(table);
  fmt::print("Written: {}\n", options.out);
  return 0;
}

TT_REGISTER(Verb, measure,
            {.name = "measure",
             .doc = "Measure a language model's sensitivity to narrow keys and values, layer by layer",
             .declare = [](Arguments& a) {
               auto o = std::make_shared<MeasureOptions>();
               a.words("MODEL", o->words, "a run or a Hugging Face folder; and kv.KEY=VALUE (kv.page_tokens, kv.rotate_keys, ...)");
               a.texts("--text", o->texts, ".txt files, or .jsonl files of {\"text\": ...}: what the model reads");
               a.text("--out", o->out, "the table, a safetensors file");
               a.text("--pairs", o->pairs, "widths KEYSxVALUES to measure (default 8x8,8x4,4x4,4x2,2x2)");
               a.text("--checkpoint", o->checkpoint, "of a run: best (default), latest or a step");
               a.flag("--per-head", o->per_head, "every KV head by itself, not whole layers");
               a.integer("--window", o->window, "longest piece of text in tokens (default 1024)");
               a.integer("--pieces", o->pieces, "pieces read at most; 0: all");
               a.integer("--threads", o->threads, "threads; 0: one per core");
               return [o] { return measure(*o); };
             }});

}  // namespace
}  // namespace trimtab
