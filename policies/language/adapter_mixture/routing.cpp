#include "policies/language/adapter_mixture/routing.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace trimtab {

at::Tensor tsallis_entropy(const at::Tensor& p, double q) {
  const at::Tensor log_p = p.clamp_min(1e-30).log();   // what underflowed counts as 0: p times anything below
  const at::Tensor terms = q == 1 ? p * log_p : p * at::expm1((q - 1) * log_p) / (q - 1);
  return -terms.sum(1);
}

RoutedRows route_rows(const at::Tensor& p, const TsallisRouting& routing) {
  const at::Tensor values = p.detach().to(at::kCPU, at::kDouble).contiguous(), weights = at::empty_like(values);
  const auto n = static_cast<size_t>(p.size(1));
  int64_t soft = 0;
  for (int64_t t = 0; t < p.size(0); ++t) {
    const auto row = [&](const at::Tensor& x) { return std::span<double>(x.data_ptr<double>() + t * p.size(1), n); };
    soft += route(row(values), routing, row(weights));
  }
  const at::Tensor kept = p * weights.gt(0).to(p.options().requires_grad(false));
  return {.weights = kept / kept.sum(1, true), .soft = soft};
}

at::Tensor balance_loss(const at::Tensor& p, int64_t top) {
  const int64_t experts = p.size(1), k = std::min(top, experts);
  const at::Tensor likeliest = std::get<1>(at::topk(p.detach(), k, 1)).flatten();
  const at::Tensor share = at::bincount(likeliest, {}, experts).to(p.scalar_type()) / static_cast<double>(likeliest.numel());
  return static_cast<double>(experts) * (share * p.mean(0)).sum();
}

}  // namespace trimtab
