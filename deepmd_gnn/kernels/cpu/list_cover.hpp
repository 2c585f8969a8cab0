// Parts of a graph that no edge joins. Without positions nothing tells how they lie to each other; but if every place of
// space is within the cutoff of some atom of one part, then so is every atom of the others, and edges are missing.
#include <cmath>
#include <vector>

namespace {

constexpr long DIRECTIONS = 1000;

class Parts {
 public:
  // Edges by centre as in Triangles: rows begin[i] to begin[i + 1].
  Parts(long natom, const std::vector<long>& begin, const std::vector<long>& neighbor, const double* x,
        const double* y, const double* z)
      : begin_(begin), neighbor_(neighbor), x_(x), y_(y), z_(z), part_(natom) {
    for (long i = 0; i < natom; ++i) part_[i] = i;
    for (long i = 0; i < natom; ++i)
      for (long p = begin[i]; p < begin[i + 1]; ++p) part_[root(i)] = root(neighbor[p]);
    for (long i = 0; i < natom; ++i) part_[i] = root(i);
  }

  bool lone(long i) const { return begin_[i] == begin_[i + 1]; }
  bool leads(long i) const { return part_[i] == i; }  // one atom of each part does
  bool apart(long i, long j) const { return part_[i] != part_[j]; }

  // Whether the balls around the atoms of i's part fill space: then no place on the surface of one is outside all
  // others. A place in direction u is in the ball around an atom at v if u·v > v²/2r. Between the directions that are
  // tried the product changes by less than their spacing.
  bool fills_space(long i, double r_max) const {
    const long natom = part_.size();
    for (long j = 0; j < natom; ++j)
      if (part_[j] == part_[i] && !surrounded(j, r_max)) return false;
    return true;
  }

 private:
  long root(long i) {
    while (part_[i] != i) i = part_[i] = part_[part_[i]];
    return i;
  }

  // By its neighbours and theirs.
  bool surrounded(long i, double r_max) const {
    for (long n = 0; n < DIRECTIONS; ++n) {  // turns of the golden angle, evenly from pole to pole
      const double height = 1.0 - (2.0 * n + 1.0) / DIRECTIONS, angle = 2.39996322972865332 * n;
      const double width = std::sqrt(1.0 - height * height);
      const double u[3] = {width * std::cos(angle), width * std::sin(angle), height};
      bool inside = false;
      for (long p = begin_[i]; p < begin_[i + 1] && !inside; ++p) inside = within(u, x_[p], y_[p], z_[p], r_max);
      for (long p = begin_[i]; p < begin_[i + 1] && !inside; ++p)
        for (long q = begin_[neighbor_[p]]; q < begin_[neighbor_[p] + 1] && !inside; ++q)
          inside = within(u, x_[p] + x_[q], y_[p] + y_[q], z_[p] + z_[q], r_max);
      if (!inside) return false;
    }
    return true;
  }

  static bool within(const double* u, double x, double y, double z, double r_max) {
    static const double spacing = std::sqrt(4.0 * M_PI / DIRECTIONS);
    const double v2 = x * x + y * y + z * z;
    return u[0] * x + u[1] * y + u[2] * z > v2 / (2.0 * r_max) + spacing * std::sqrt(v2);
  }

  const std::vector<long>&begin_, &neighbor_;
  const double *x_, *y_, *z_;
  std::vector<long> part_;
};

}  // namespace
