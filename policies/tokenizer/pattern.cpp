#include "policies/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"

namespace trimtab {
namespace {

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

// What one thread needs to match, whatever the pattern.
struct Scratch {
  Scratch() { pcre2_jit_stack_assign(context, nullptr, stack); }
  ~Scratch() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, 4 << 20, nullptr);
};

}  // namespace

struct Pattern::Code {
  explicit Code(pcre2_code* compiled) : compiled(compiled) {}
  ~Code() { pcre2_code_free(compiled); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  pcre2_code* compiled;
};

Pattern::Pattern(const std::string& pcre2) {
  int error = 0;
  size_t offset = 0;
  pcre2_code* compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre2.data()), pcre2.size(),
                                       PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (compiled == nullptr)
    throw DataError(fmt::format("the pattern does not compile: {}, before \"{}\"", message_of(error),
                                pcre2.substr(offset, 20)));
  code_ = std::make_unique<Code>(compiled);
  uint32_t matches_empty = 0;
  pcre2_pattern_info(compiled, PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0)
    throw DataError("the pattern matches the empty text; every alternative must take a character");
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // where there is no JIT, matching is only slower
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

bool Pattern::find(std::string_view text, size_t from, TextRange& match) const {
  thread_local Scratch scratch;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto run = [&](uint32_t options) {
    return pcre2_match(code_->compiled, subject, text.size(), from, options | PCRE2_NO_UTF_CHECK,
                       scratch.data, scratch.context);
  };
  int found = run(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);  // that one grows on the heap
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0)
    throw DataError(fmt::format("the tokenizer's pattern cannot be matched: {}", message_of(found)));
  const size_t* offsets = pcre2_get_ovector_pointer(scratch.data);
  match = {offsets[0], offsets[1]};
  return true;
}

}  // namespace trimtab
