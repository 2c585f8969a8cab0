// Quantities of frames that a .pt2 is given (charge, spin), checked before an embedding is looked up by them.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

// What is known of a column.
struct Rule {
  double whole, least, most, standard;  // a flag; the range of whole numbers; the default, NaN if there is none
  bool allows(double value) const {
    return std::isfinite(value) && (whole == 0.0 || (value == std::nearbyint(value) && value >= least && value <= most));
  }
};

std::atomic<bool> defaults_told{false};

// The program's host fills in the defaults, so that here they look like values that were given.
void tell_defaults(const double* values, long frames, long columns, const Rule* rules, const char* text) {
  std::string said;
  for (long c = 0; c < columns; ++c) {
    for (long f = 0; f < frames; ++f)
      if (!(values[f * columns + c] == rules[c].standard)) return;
    char number[40];
    std::snprintf(number, sizeof number, " %g", rules[c].standard);
    said += (c ? ", " : "") + std::string(text) + number;
    for (int part = 0; part < 2; ++part) text += std::strlen(text) + 1;
  }
  if (frames == 0 || defaults_told.exchange(true)) return;
  std::fprintf(stderr,
               "mace model: warning: fparam was not given or has the default values, so frames have %s. In LAMMPS give others with "
               "pair_style deepmd model fparam .... This is said once.\n",
               said.c_str());
}

}  // namespace

// `text`: for each column its name and what it must be, each ended by a zero byte. Returns 0, or prints a sentence and returns
// another number; good values are copied to where the rest of the program reads them.
extern "C" __attribute__((visibility("protected"))) int mace_check_values(const double* values, long frames, long columns,
                                                                          const double* rules, const char* text,
                                                                          double* checked) {
  const Rule* known = reinterpret_cast<const Rule*>(rules);
  const char* name = text;
  for (long c = 0; c < columns; ++c) {
    const char* allowed = name + std::strlen(name) + 1;
    for (long f = 0; f < frames; ++f) {
      const double value = values[f * columns + c];
      if (known[c].allows(value)) continue;
      std::fprintf(stderr,
                   "mace model: %s is %g in frame %ld (column %ld of fparam, counted from 0), but must be %s.\n", name, value,
                   f, c, allowed);
      return REFUSED;
    }
    name = allowed + std::strlen(allowed) + 1;
  }
  tell_defaults(values, frames, columns, known, text);
  std::memcpy(checked, values, sizeof(double) * frames * columns);
  return 0;
}
