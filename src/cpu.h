// What the processor and the operating system offer.
#pragma once

#include <string>
#include <vector>

namespace mpl_sparse {

// The extensions that backends.inc asks for, those this machine has; found once.
const std::vector<std::string>& detected_features();

bool cpu_has(const std::string& feature);

}  // namespace mpl_sparse
