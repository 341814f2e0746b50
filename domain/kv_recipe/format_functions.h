// The functions of each format (formats.h), and what they share. Internal to domain/kv_recipe.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "domain/kv_recipe/kv_recipe.h"

namespace trimtab {

std::string write_kvtuner(const KvRecipe& recipe);
std::string write_modelopt(const KvRecipe& recipe);
std::string write_sglang(const KvRecipe& recipe);
std::string write_tensorrt_llm(const KvRecipe& recipe);
std::string write_vllm(const KvRecipe& recipe);
std::string write_ik_llama(const KvRecipe& recipe);

// `rest` is valid; its bits are overwritten.
KvRecipe read_kvtuner(const std::string& text, const std::string& file, const KvRecipe& rest);
KvRecipe read_modelopt(const std::string& text, const std::string& file, const KvRecipe& rest);
KvRecipe read_sglang(const std::string& text, const std::string& file, const KvRecipe& rest);
KvRecipe read_tensorrt_llm(const std::string& text, const std::string& file, const KvRecipe& rest);
KvRecipe read_vllm(const std::string& text, const std::string& file, const KvRecipe& rest);
KvRecipe read_ik_llama(const std::string& text, const std::string& file, const KvRecipe& rest);

// DataError "FORMAT cannot represent the recipe: fault; cure".
[[noreturn]] void cannot_write(const std::string& format, const std::string& fault, const std::string& cure);

// The pair of every layer, for a format without KV heads: heads must agree within a layer, and none may be evicted.
std::vector<KvBits> bits_by_layer(const KvRecipe& recipe, const std::string& format);

std::string shown(KvBits bits);   // "8-bit keys and 4-bit values"

// A consumer's name for a pair of widths. Where several mean the same pair, the first is written.
struct KvTypeName {
  const char* name;
  KvBits bits;
};
std::optional<std::string> type_name(std::span<const KvTypeName> types, KvBits bits);
// DataError "FILE: unknown type ...".
KvBits bits_of_type(std::span<const KvTypeName> types, const std::string& name, const std::string& file);

// "0", "17": decimal digits without a sign or a zero in front, below `end`; nothing otherwise.
std::optional<int64_t> parse_index(std::string_view text, int64_t end);

std::vector<std::string> words_of(const std::string& text);   // what spaces, tabs and line ends separate

}  // namespace trimtab
