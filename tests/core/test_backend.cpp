// The choice of a backend. With the argument "unknown": MPL_SPARSE_BACKEND names none, and every use says so.
#include <algorithm>
#include <cstring>
#include <set>
#include <stdexcept>

#include "arrays.h"
#include "check.h"
#include "dispatch.h"
#include "forced.h"
#include "mpl_sparse/matmul.h"

using namespace mpl_sparse;

namespace {

void choice() {
  const std::vector<std::string> names = backends();
  CHECK(!names.empty());
  CHECK_EQ(names.back(), std::string("scalar"));
  CHECK_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  std::set<const void*> tables;
  for (const std::string& name : names) {
    set_backend(name);
    CHECK_EQ(backend(), name);
    tables.insert(&kernels<float>());  // the forcing worked: each name has kernels of its own
    tables.insert(&kernels<double>());
    CHECK(kernels<float>().lanes >= 1 && kernels<float>().lanes == 2 * kernels<double>().lanes);
  }
  CHECK_EQ(tables.size(), 2 * names.size());
  set_backend("auto");
  CHECK_EQ(backend(), names.front());
  set_backend("scalar");
  CHECK_THROWS(std::invalid_argument, "scalar), got 'abacus'", set_backend("abacus"));
  CHECK_THROWS(std::invalid_argument, "got ''", set_backend(""));
  CHECK_THROWS(std::invalid_argument, "got 'SCALAR'", set_backend("SCALAR"));
  CHECK_EQ(backend(), std::string("scalar"));
}

void unknown() {
  const char* text = "the environment variable MPL_SPARSE_BACKEND must be auto or a backend that this machine can run (";
  CHECK(!backends().empty());
  CHECK_THROWS(std::invalid_argument, text, backend());
  CHECK_THROWS(std::invalid_argument, "scalar), got 'abacus'", backend());
  Random random(4);
  const auto pattern = random_pattern(3, 4, 1, random);
  for (int64_t batch : {1, 5}) {
    Array<float, 1> values({12}, Layout::contiguous, random);
    Array<float, 2> input({batch, 4}, Layout::contiguous, random), output({batch, 3}, Layout::contiguous, random);
    const std::vector<float> before = output.values();
    CHECK_THROWS(std::invalid_argument, text,
                 linear_forward<float>(*pattern, vector_in(values), matrix_in(input), {}, matrix_out(output), 1));
    CHECK(output.values() == before);
  }
  set_backend("scalar");  // a name set by hand counts more than the variable
  CHECK_EQ(backend(), std::string("scalar"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "unknown") == 0) {
    unknown();
  } else {
    skip_unless_backend_runs();
    choice();
  }
  return checks::result();
}
