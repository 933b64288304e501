// Which instruction set the kernels use. Chosen in one place at run time; the list itself is src/backends.inc.
#pragma once

#include <string>
#include <vector>

namespace mpl_sparse {

// The backends that this machine can run, best first.
std::vector<std::string> backends();

// The backend in use: the one set last, else the one that the environment variable MPL_SPARSE_BACKEND names, else the best.
// Throws std::invalid_argument when the variable names a backend that this machine cannot run.
std::string backend();

// Uses the named backend from now on, for the whole process; "auto" is the best. Throws std::invalid_argument for an unknown one.
void set_backend(const std::string& name);

// The instruction-set extensions that the choice looks at, those this machine has.
std::vector<std::string> cpu_features();

}  // namespace mpl_sparse
