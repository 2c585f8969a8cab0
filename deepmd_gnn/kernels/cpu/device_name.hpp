// Takes the place of <regex> where AOTInductor 2.11 compiles a program. It reads one thing with it, the name of a device:
// (cpu|cuda|xpu|mps)(:([0-9]+))?, and the compiler needs three seconds for the standard library's general answer.
#pragma once
#include <algorithm>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace deepmd_gnn {

// Part of a name; the empty one where there is none.
struct DevicePart {
  bool matched = false;
  std::string text;
  const std::string& str() const { return text; }
};

// Whole name, kind, number with its colon, number.
struct DeviceParts {
  DevicePart part[4];
  const DevicePart& operator[](std::size_t place) const { return part[place]; }
};

// The pattern, which is known.
struct DeviceName {
  explicit DeviceName(const char*) {}
};

inline bool regex_match(const std::string& name, DeviceParts& parts, const DeviceName&) {
  parts = DeviceParts();
  const std::size_t colon = name.find(':');
  const std::string kind = name.substr(0, colon);
  if (kind != "cpu" && kind != "cuda" && kind != "xpu" && kind != "mps") return false;
  if (colon != std::string::npos) {
    const std::string number = name.substr(colon + 1);
    if (number.empty()) return false;
    for (char digit : number)
      if (digit < '0' || digit > '9') return false;
    parts.part[2] = {true, ":" + number};
    parts.part[3] = {true, number};
  }
  parts.part[0] = {true, name};
  parts.part[1] = {true, kind};
  return true;
}

}  // namespace deepmd_gnn

namespace std {
using regex = deepmd_gnn::DeviceName;
using smatch = deepmd_gnn::DeviceParts;
using deepmd_gnn::regex_match;
}  // namespace std
