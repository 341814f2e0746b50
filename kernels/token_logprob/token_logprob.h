// Log-probability of one token per row of logits, and the entropy of the row's distribution, on plain arrays, f32 or f64; and
// the gradient of both with respect to the logits:
//
//   z = logits / temperature, p = softmax(z):  logp = z_t - lse(z),  H = lse(z) - sum p z
//   d_logits = (d_logp (onehot(t) - p) - d_entropy p (log p + H)) / temperature
//
// Rows lie behind one another. Thread-safe; no allocation. A token out of range is our own error (TT_CHECK).
#pragma once

#include <cstdint>

namespace trimtab {

template <class T>
struct TokenLogprob {
  int64_t rows = 0, vocab = 0;
  const T* logits = nullptr;        // [rows, vocab]
  double temperature = 1;
  const int64_t* tokens = nullptr;  // [rows]
  T *logp = nullptr, *entropy = nullptr, *lse = nullptr;   // [rows]
};

template <class T>
struct TokenLogprobGradient {
  int64_t rows = 0, vocab = 0;
  T* logits = nullptr;              // [rows, vocab], overwritten by their gradient
  double temperature = 1;
  const int64_t* tokens = nullptr;
  const T *entropy = nullptr, *lse = nullptr;        // of the forward
  const T *d_logp = nullptr, *d_entropy = nullptr;   // [rows]; null: zero
};

void token_logprob(const TokenLogprob<float>& a);
void token_logprob(const TokenLogprob<double>& a);
void token_logprob_gradient(const TokenLogprobGradient<float>& a);
void token_logprob_gradient(const TokenLogprobGradient<double>& a);

}  // namespace trimtab
