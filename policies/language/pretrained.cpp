#include "policies/language/pretrained.h"

#include "core/error.h"

namespace trimtab {

namespace fs = std::filesystem;

namespace {

// write(FOLDER.tmp), which then takes the folder's place.
template <class F>
void replace_folder(const fs::path& folder, const F& write) {
  const fs::path fresh = folder.string() + ".tmp", old = folder.string() + ".old";
  fs::remove_all(fresh);
  fs::create_directories(fresh);
  write(fresh);
  fs::remove_all(old);
  if (fs::exists(folder)) fs::rename(folder, old);
  fs::rename(fresh, folder);
  fs::remove_all(old);
}

}  // namespace

void ArchitectureOptions::describe(Fields& f) {
  f.choice("family", family, {"llama", "qwen2", "qwen3"}, "llama; qwen2 adds biases to q, k, v; qwen3 normalises queries and keys");
  f.integer("hidden_size", hidden_size, {.low = 8, .high = 65536, .doc = "width of the residual stream"});
  f.integer("num_layers", num_layers, {.low = 1, .high = 1024, .doc = "blocks"});
  f.integer("num_heads", num_heads, {.low = 1, .high = 1024, .doc = "query heads"});
  f.integer("num_kv_heads", num_kv_heads, {.low = 0, .high = 1024, .doc = "key and value heads; 0: num_heads"});
  f.integer("head_dim", head_dim, {.low = 0, .high = 512, .doc = "width of a head; 0: hidden_size / num_heads"});
  f.integer("intermediate_size", intermediate_size,
            {.low = 0, .high = 1e6, .doc = "width of the MLP; 0: 8/3 of hidden_size, rounded down to a multiple of 16"});
  f.integer("max_positions", max_positions, {.low = 8, .high = 1e7, .unit = "tokens", .doc = "longest prompt and reply together"});
  f.number("rope_theta", rope_theta, {.low = 1, .doc = "base of the rotary frequencies"});
  f.number("init_std", init_std, {.low = 1e-6, .high = 10, .doc = "deviation of the first weights"});
  f.number("embedding_std", embedding_std, {.low = 1e-6, .high = 10, .doc = "deviation of the first embeddings"});
  f.flag("tied_embeddings", tied_embeddings, "one matrix for embeddings and head");
}

void ArchitectureOptions::validate() const {
  if (head_dim % 2 != 0) throw ConfigError(fmt::format("head_dim {} must be even: rotary embedding turns pairs", head_dim));
  if (head_dim == 0 && (hidden_size % num_heads != 0 || hidden_size / num_heads % 2 != 0))
    throw ConfigError(fmt::format("hidden_size {} must be an even number per head (num_heads {})", hidden_size, num_heads));
  if (num_kv_heads > 0 && num_heads % num_kv_heads != 0)
    throw ConfigError(fmt::format("num_heads {} is not a multiple of num_kv_heads {}", num_heads, num_kv_heads));
}

TransformerConfig ArchitectureOptions::config(const Tokenizer& tokenizer) const {
  validate();
  TransformerConfig out;
  out.family = family;
  out.vocab_size = tokenizer.vocab_size();
  out.hidden_size = hidden_size;
  out.num_layers = num_layers;
  out.num_heads = num_heads;
  out.num_kv_heads = num_kv_heads > 0 ? num_kv_heads : num_heads;
  out.head_dim = head_dim > 0 ? head_dim : hidden_size / num_heads;
  out.intermediate_size = intermediate_size > 0 ? intermediate_size : std::max<int64_t>(16, 8 * hidden_size / 3 / 16 * 16);
  out.max_positions = max_positions;
  out.qkv_bias = family == "qwen2";
  out.qk_norm = family == "qwen3";
  out.tied_embeddings = tied_embeddings;
  out.rope.theta = rope_theta;
  for (const int32_t id : tokenizer.stop_ids()) out.eos_ids.push_back(id);
  return out;
}

LanguageModel LanguageModel::load(const fs::path& path) {
  const bool is_run = fs::exists(path / "config.yaml");
  const fs::path folder = is_run ? path / "model" : path;
  if (!fs::is_directory(folder))
    throw DataError(fmt::format("{}: {}", folder.string(),
                                is_run ? "this run has no model yet; let its training reach an evaluation or its end"
                                       : "no such folder; give a run or a Hugging Face model folder"));
  LanguageModel out;
  out.transformer = std::make_unique<Transformer>(Transformer::read(folder));
  out.tokenizer = load_tokenizer(folder);
  if (out.tokenizer->vocab_size() > out.transformer->config().vocab_size)
    throw DataError(fmt::format("{}: tokenizer.json has {} tokens but config.json says vocab_size {}: they do not belong together",
                                folder.string(), out.tokenizer->vocab_size(), out.transformer->config().vocab_size));
  return out;
}

LanguageModel LanguageModel::create(const ArchitectureOptions& architecture, TokenizerFiles tokenizer, uint64_t seed) {
  LanguageModel out;
  out.tokenizer = make_tokenizer(std::move(tokenizer), "policy.tokenizer");
  out.transformer = std::make_unique<Transformer>(architecture.config(*out.tokenizer), seed, at::kFloat,
                                                  Initialisation{architecture.init_std, architecture.embedding_std});
  return out;
}

void save_model(const Transformer& transformer, const Tokenizer& tokenizer, const fs::path& folder) {
  replace_folder(folder, [&](const fs::path& fresh) {
    transformer.write(fresh);
    save_tokenizer(tokenizer, fresh);
  });
}

void save_adapter(const Transformer& transformer, const fs::path& folder) {
  replace_folder(folder, [&](const fs::path& fresh) { transformer.write_adapter(fresh); });
}

}  // namespace trimtab
