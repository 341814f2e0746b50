// Dense kernels against a float64 reference on hostile inputs, with the error bound of an f32 sum; shapes
// 0..130.
#include "kernels/dense/dense.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "core/random.h"
#include "core/test_support.h"
#include "kernels/test_support.h"

namespace trimtab {
namespace {

constexpr float kCanary = 12345.678f;  // stands where nothing may be written

// A matrix whose rows are further apart than they are long.
struct Matrix {
  int64_t rows, columns, stride;
  std::vector<float> data;
  Matrix(int64_t r, int64_t c, Draws& draws)
      : rows(r),
        columns(c),
        stride(c + draws.below(5)),
        data(static_cast<size_t>(std::max<int64_t>(r * stride, 1)), kCanary) {}
  float* row(int64_t i) { return data.data() + i * stride; }
  float at(int64_t i, int64_t j) const { return data[i * stride + j]; }
  bool canaries_live() const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = columns; j < stride; ++j)
        if (data[i * stride + j] != kCanary) return false;
    return true;
  }
};

// Ordinary numbers, zero rows, denormals and big values.
Matrix hostile(int64_t rows, int64_t columns, Draws& draws) {
  Matrix m(rows, columns, draws);
  for (int64_t i = 0; i < rows; ++i) {
    const float scales[] = {1.0f, 1.0f, 0.0f, 1e-40f, 1e15f, 1e-3f};
    const float scale = scales[draws.below(6)];
    for (int64_t j = 0; j < columns; ++j) m.row(i)[j] = scale * draws.normal();
  }
  return m;
}

// One sum with the magnitude that its rounding error is relative to.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double x) { value += x, magnitude += std::abs(x); }
  double bound(int64_t terms) const {
    return (2 * static_cast<double>(terms) + 4) * 0x1p-24 * magnitude + 1e-37;
  }
};

struct Layer {
  int64_t rows, in, out;
  Matrix x, w, base, dy;
  std::vector<int32_t> base_row;
  explicit Layer(Draws& draws)
      : rows(size(draws)),
        in(size(draws)),
        out(size(draws)),
        x(hostile(rows, in, draws)),
        w(hostile(in, out, draws)),
        base(hostile(1 + draws.below(5), out, draws)),
        dy(hostile(rows, out, draws)) {
    for (int64_t r = 0; r < rows; ++r)
      base_row.push_back(static_cast<int32_t>(draws.below(static_cast<uint32_t>(base.rows))));
  }
  // Often a width that real layers have, else anything.
  static int64_t size(Draws& draws) {
    const int64_t common[] = {0, 1, 2, 3, 4, 16, 64, 128};
    return draws.uniform() < 0.4f ? common[draws.below(8)] : 1 + draws.below(130);
  }
  DenseBase forward_base() const { return {base.data.data(), base.stride, base_row.data()}; }
};

class Dense : public EveryTarget {};
TT_ON_EVERY_TARGET(Dense);

double activated(double x, Activation a) {
  return a == Activation::kTanh ? std::tanh(x) : a == Activation::kRelu ? std::max(x, 0.0) : x;
}

TEST_P(Dense, RunsOnTheTargetUnderTest) { EXPECT_EQ(dense_target(), hwy::TargetName(GetParam())); }

TEST_P(Dense, ForwardMatchesFloat64) {
  for (uint32_t test = 0; test < 120; ++test) {
    Draws draws(test_seed(), Stream::kTest, test);
    Layer l(draws);
    const Activation activation = static_cast<Activation>(draws.below(3));
    Matrix y(l.rows, l.out, draws);
    dense_forward({l.rows, l.in, l.out, l.x.row(0), l.x.stride, l.w.row(0), l.w.stride, l.forward_base(),
                   activation, y.row(0), y.stride});
    ASSERT_TRUE(y.canaries_live());
    for (int64_t r = 0; r < l.rows; ++r) {
      for (int64_t j = 0; j < l.out; ++j) {
        Sum sum;
        sum.add(l.base.at(l.base_row[r], j));
        for (int64_t k = 0; k < l.in; ++k) sum.add(double{l.x.at(r, k)} * l.w.at(k, j));
        const double expected = activated(sum.value, activation);
        ASSERT_NEAR(y.at(r, j), expected, sum.bound(l.in) + (activation == Activation::kTanh ? 1e-6 : 0))
            << l.rows << " x " << l.in << " -> " << l.out;
      }
    }
  }
}

TEST_P(Dense, InputGradientMatchesFloat64) {
  for (uint32_t test = 0; test < 120; ++test) {
    Draws draws(test_seed(), Stream::kTest, test, 1);
    Layer l(draws);
    const Activation activation = static_cast<Activation>(draws.below(3));
    Matrix transposed(l.out, l.in, draws), dx(l.rows, l.in, draws), base = hostile(3, l.in, draws);
    for (int64_t r = 0; r < l.rows; ++r)
      for (int64_t k = 0; k < l.in; ++k)
        l.x.row(r)[k] = std::tanh(l.x.at(r, k));  // what an activation puts out
    std::vector<int32_t> base_row(l.rows);
    for (int32_t& row : base_row) row = static_cast<int32_t>(draws.below(3));
    const bool based = draws.uniform() < 0.5f;
    dense_transpose(l.in, l.out, l.w.row(0), l.w.stride, transposed.row(0), transposed.stride);
    ASSERT_TRUE(transposed.canaries_live());
    for (int64_t k = 0; k < l.in; ++k)
      for (int64_t j = 0; j < l.out; ++j) ASSERT_EQ(transposed.at(j, k), l.w.at(k, j));
    dense_input_gradient({l.rows, l.in, l.out, l.dy.row(0), l.dy.stride, transposed.row(0), transposed.stride,
                          based ? DenseBase{base.row(0), base.stride, base_row.data()} : DenseBase{},
                          activation, l.x.row(0), l.x.stride, dx.row(0), dx.stride});
    ASSERT_TRUE(dx.canaries_live());
    for (int64_t r = 0; r < l.rows; ++r) {
      for (int64_t k = 0; k < l.in; ++k) {
        Sum sum;
        if (based) sum.add(base.at(base_row[r], k));
        for (int64_t j = 0; j < l.out; ++j) sum.add(double{l.dy.at(r, j)} * l.w.at(k, j));
        const double y = l.x.at(r, k);
        const double slope = activation == Activation::kTanh   ? 1 - y * y
                             : activation == Activation::kRelu ? (y > 0 ? 1 : 0)
                                                               : 1;
        ASSERT_NEAR(dx.at(r, k), slope * sum.value, sum.bound(l.out) + 0x1p-23 * sum.magnitude);
      }
    }
  }
}

TEST_P(Dense, WeightAndBiasGradientsMatchFloat64AndAddUp) {
  for (uint32_t test = 0; test < 120; ++test) {
    Draws draws(test_seed(), Stream::kTest, test, 2);
    Layer l(draws);
    Matrix dw = hostile(l.in, l.out, draws), db = hostile(1, l.out, draws);
    const Matrix dw_before = dw, db_before = db;
    dense_weight_gradient(
        {l.rows, l.in, l.out, l.x.row(0), l.x.stride, l.dy.row(0), l.dy.stride, dw.row(0), dw.stride});
    dense_column_sums(l.rows, l.out, l.dy.row(0), l.dy.stride, db.row(0));
    ASSERT_TRUE(dw.canaries_live() && db.canaries_live());
    for (int64_t j = 0; j < l.out; ++j) {
      Sum bias;
      bias.add(db_before.at(0, j));
      for (int64_t r = 0; r < l.rows; ++r) bias.add(l.dy.at(r, j));
      ASSERT_NEAR(db.at(0, j), bias.value, bias.bound(l.rows));
      for (int64_t k = 0; k < l.in; ++k) {
        Sum sum;
        sum.add(dw_before.at(k, j));
        for (int64_t r = 0; r < l.rows; ++r) sum.add(double{l.x.at(r, k)} * l.dy.at(r, j));
        ASSERT_NEAR(dw.at(k, j), sum.value, sum.bound(l.rows)) << l.rows << " x " << l.in << " -> " << l.out;
      }
    }
  }
}

TEST_P(Dense, GradientsMatchFiniteDifferences) {
  for (const Activation activation : {Activation::kTanh, Activation::kNone}) {
    for (const int64_t out : {1, 3, 19}) {
      const int64_t rows = 5, in = 17;
      Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(out), 3);
      std::vector<float> x(rows * in), w(in * out), b(out), dy(rows * out), y(rows * out);
      for (auto* v : {&x, &w, &b, &dy})
        for (float& value : *v) value = 0.5f * draws.normal();
      const auto loss = [&] {
        dense_forward(
            {rows, in, out, x.data(), in, w.data(), out, {b.data(), 0, nullptr}, activation, y.data(), out});
        double total = 0;
        for (int64_t i = 0; i < rows * out; ++i) total += double{y[i]} * dy[i];
        return total;
      };
      loss();
      std::vector<float> ds = dy, transposed(w.size()), dx(x.size()), dw(w.size()), db(out);
      if (activation == Activation::kTanh)
        for (size_t i = 0; i < ds.size(); ++i) ds[i] *= 1 - y[i] * y[i];
      dense_transpose(in, out, w.data(), out, transposed.data(), in);
      dense_input_gradient({rows,
                            in,
                            out,
                            ds.data(),
                            out,
                            transposed.data(),
                            in,
                            {},
                            Activation::kNone,
                            nullptr,
                            0,
                            dx.data(),
                            in});
      dense_weight_gradient({rows, in, out, x.data(), in, ds.data(), out, dw.data(), out});
      dense_column_sums(rows, out, ds.data(), out, db.data());
      const auto check = [&](std::vector<float>& parameter, const std::vector<float>& gradient) {
        for (size_t i = 0; i < parameter.size(); ++i) {
          const float start = parameter[i], h = 0.02f;
          const auto at = [&](float value) {
            parameter[i] = value;
            return loss();
          };
          const double slope =
              (8 * (at(start + h) - at(start - h)) - (at(start + 2 * h) - at(start - 2 * h))) / (12.0 * h);
          parameter[i] = start;
          ASSERT_NEAR(slope, gradient[i], 1e-3);
        }
      };
      check(x, dx), check(w, dw), check(b, db);
    }
  }
}

TEST_P(Dense, ARowDoesNotDependOnItsCompany) {
  for (const int64_t out : {1, 2, 3, 17, 64, 70}) {
    Draws draws(test_seed(), Stream::kTest, static_cast<uint32_t>(out), 4);
    const int64_t in = 37, most = 64;
    std::vector<float> x(most * in), w(in * out), whole(most * out), part(most * out);
    for (auto* v : {&x, &w})
      for (float& value : *v) value = draws.normal();
    const auto run = [&](int64_t first, int64_t rows, float* y) {
      dense_forward({rows, in, out, x.data() + first * in, in, w.data(), out, {}, Activation::kTanh, y, out});
    };
    run(0, most, whole.data());
    for (const int64_t rows : {1, 2, 3, 5, 7, 13}) {
      for (int64_t first = 0; first + rows <= most; first += rows) {
        run(first, rows, part.data());
        for (int64_t i = 0; i < rows * out; ++i) ASSERT_EQ(part[i], whole[first * out + i]);
      }
    }
  }
}

TEST_P(Dense, TanhIsAccurateEverywhere) {
  // Without inputs the layer is its activation of the base row.
  std::vector<float> x;
  for (double t = -12; t <= 12; t += 1e-4) x.push_back(static_cast<float>(t));
  for (double t = 1e-44; t < 3e38; t *= 1.7)
    x.push_back(static_cast<float>(t)), x.push_back(static_cast<float>(-t));
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<float> y(n);
  dense_forward({1, 0, n, nullptr, 0, nullptr, n, {x.data(), 0, nullptr}, Activation::kTanh, y.data(), n});
  for (int64_t i = 0; i < n; ++i) {
    const double expected = std::tanh(double{x[i]});
    ASSERT_NEAR(y[i], expected, 1e-6 * std::abs(expected) + 1e-44) << x[i];
    ASSERT_LE(std::abs(y[i]), 1.0f);
  }
}

TEST_P(Dense, NotANumberIsNotHidden) {
  for (const Activation activation : {Activation::kNone, Activation::kTanh, Activation::kRelu}) {
    for (const int64_t out : {1, 5, 64}) {
      std::vector<float> x(64, 1.0f), w(64 * out, 0.5f), y(out);
      x[40] = NAN;
      dense_forward({1, 64, out, x.data(), 64, w.data(), out, {}, activation, y.data(), out});
      for (const float value : y) EXPECT_TRUE(std::isnan(value));
    }
  }
}

}  // namespace
}  // namespace trimtab
