// What a .pt2 is given, checked before anything is looked up by it: types, indices, vectors; and now and then whether
// the list of edges is whole.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <new>
#include <vector>

namespace {

constexpr int REFUSED = 4;           // not zero: the caller raises
constexpr double SAME_PLACE = 1e-6;  // Å
constexpr double MARGIN = 1e-3;      // Å, more than any rounding of positions
constexpr long PERIOD = 100;         // evaluations after which the list is compared again
constexpr long LOOKED_THROUGH = 16;  // neighbours of an atom whose neighbours it should have: most have most of them

double square(const double* v) { return v[0] * v[0] + v[1] * v[1] + v[2] * v[2]; }

struct Edges {
  const int64_t *neighbor, *center;
  const double* vectors;  // neighbour minus centre, Å
  const bool* mask;
  long count;
  // Whether a host made the list. Guards of edges that this package searched in Python have a length.
  bool of_host() const {
    for (long e = 0; e < count; ++e)
      if (!mask[e] && square(vectors + 3 * e) > 0.0) return false;
    return true;
  }
};

struct Atoms {
  const int64_t* types;
  long count, owned, ntypes;
  const bool* allowed;     // (ntypes, ntypes): which types see each other
  const bool* has_energy;  // (ntypes,): which types have energy when alone
  bool all_see() const { return std::all_of(allowed, allowed + ntypes * ntypes, [](bool seen) { return seen; }); }
  bool see(long i, long j) const { return allowed[types[i] * ntypes + types[j]]; }
};

int refuse_place(long first, long second) {
  std::fprintf(stderr,
               "mace model: two atoms are at the same place (closer than 1e-6 Å), so the force between them is "
               "undefined: atoms %ld and %ld, counted from 0 over the frames of the batch or the atoms of the rank.\n",
               first, second);
  return REFUSED;
}

int refuse_list(long first, long second) {
  std::fprintf(stderr,
               "mace model: the neighbour list lacks pairs within the cutoff, such as atoms %ld and %ld of the rank, "
               "counted from 0; the energy would be another substance's. In LAMMPS write special_bonds lj/coul 1 1 1, "
               "remove neigh_modify exclude, and use pair_style hybrid/overlay, not hybrid. fix gcmc and fix evaporate "
               "need atoms with E0 = 0, see docs/lammps.md.\n",
               first, second);
  return REFUSED;
}

int refuse_type(const Atoms& atoms, const char* names, long nname) {
  long i = 0;
  while (atoms.types[i] >= -1 && atoms.types[i] < atoms.ntypes) ++i;
  std::fprintf(stderr, "mace model: atom type %ld is out of range; the model has %ld types: %.*s.\n",
               static_cast<long>(atoms.types[i]), atoms.ntypes, static_cast<int>(nname), names);
  return REFUSED;
}

int refuse_edge(const Atoms& atoms, const Edges& edges) {
  for (long e = 0; e < edges.count; ++e) {
    const long neighbor = edges.neighbor[e], center = edges.center[e];
    if (neighbor < 0 || neighbor >= atoms.count || center < 0 || center >= atoms.count) {
      std::fprintf(stderr,
                   "mace model: an edge goes from atom %ld to atom %ld, but there are %ld atoms, ghosts included, "
                   "counted from 0. Give indices of these atoms.\n",
                   neighbor, center, atoms.count);
      return REFUSED;
    }
    if (edges.mask[e] && square(edges.vectors + 3 * e) < SAME_PLACE * SAME_PLACE) return refuse_place(center, neighbor);
  }
  std::fputs("mace model: a coordinate is NaN or infinite. Check the input frame or the time step.\n", stderr);
  return REFUSED;
}

// Types and edges that can be used as indices. At every evaluation: the loops have no branches.
int check_values(const Atoms& atoms, const Edges& edges, const char* names, long nname) {
  bool bad = false;
  for (long i = 0; i < atoms.count; ++i) bad |= atoms.types[i] < -1 || atoms.types[i] >= atoms.ntypes;
  if (bad) return refuse_type(atoms, names, nname);
  const uint64_t count = atoms.count;
  for (long e = 0; e < edges.count; ++e)
    bad |= static_cast<uint64_t>(edges.neighbor[e]) >= count | static_cast<uint64_t>(edges.center[e]) >= count;
  for (long e = 0; e < edges.count; ++e) {
    const double length2 = square(edges.vectors + 3 * e);
    bad |= edges.mask[e] & !(length2 >= SAME_PLACE * SAME_PLACE & length2 < INFINITY);
  }
  return bad ? refuse_edge(atoms, edges) : 0;
}

// Atoms at the same place see the same neighbours at the same places; the pair itself the host leaves out. One neighbour
// of each atom is enough: the one that is nearest to some place beside the atom, where no crystal has two.
int check_places(const Atoms& atoms, const Edges& edges) {
  std::vector<long> seen(atoms.count, -1), next(atoms.count, -1), last(atoms.count, -1);
  std::vector<double> least(atoms.count, INFINITY);
  for (long e = 0; e < edges.count; ++e) {
    const double* v = edges.vectors + 3 * e;
    const double beside[3] = {v[0] - 0.31, v[1] - 0.13, v[2] - 0.07};
    const double length2 = square(beside);
    if (length2 >= least[edges.center[e]] || !edges.mask[e]) continue;
    least[edges.center[e]] = length2;
    seen[edges.center[e]] = e;
  }
  for (long i = 0; i < atoms.count; ++i) {
    if (seen[i] < 0) continue;
    const double* v = edges.vectors + 3 * seen[i];
    long& chain = last[edges.neighbor[seen[i]]];
    for (long j = chain; j >= 0; j = next[j]) {
      const double* w = edges.vectors + 3 * seen[j];
      const double difference[3] = {v[0] - w[0], v[1] - w[1], v[2] - w[2]};
      if (square(difference) < SAME_PLACE * SAME_PLACE) return refuse_place(j, i);
    }
    next[i] = chain, chain = i;
  }
  return 0;
}

// Two neighbours of an atom that are within reach of each other must be neighbours. There are no positions here: what
// has no common neighbours is missed only by parts() in a periodic system.
class Triangles {
 public:
  Triangles(const Atoms& atoms, const Edges& edges, double reach)
      : atoms_(atoms), reach2_(reach * reach), begin_(atoms.count + 1, 0), neighbor_(edges.count), x_(edges.count),
        y_(edges.count), z_(edges.count), first_(atoms.count, -1), next_(edges.count), near_(edges.count) {
    for (long e = 0; e < edges.count; ++e)
      if (edges.mask[e]) ++begin_[edges.center[e] + 1];
    for (long i = 0; i < atoms.count; ++i) begin_[i + 1] += begin_[i];
    std::vector<long> place(begin_.begin(), begin_.end() - 1);
    for (long e = 0; e < edges.count; ++e) {
      if (!edges.mask[e]) continue;
      const long p = place[edges.center[e]]++;
      neighbor_[p] = edges.neighbor[e];
      x_[p] = edges.vectors[3 * e], y_[p] = edges.vectors[3 * e + 1], z_[p] = edges.vectors[3 * e + 2];
    }
  }

  int check() {
    for (long j = 0; j < atoms_.owned; ++j) {
      const long begin = begin_[j], end = begin_[j + 1];
      if (atoms_.types[j] < 0) continue;
      for (long p = begin; p < end; ++p) {
        next_[p] = first_[neighbor_[p]];
        first_[neighbor_[p]] = p;
      }
      const long step = 1 + (end - begin - 1) / LOOKED_THROUGH;
      for (long p = begin; p < end; p += step)
        if (int refused = check_through(j, p)) return refused;
      for (long p = begin; p < end; ++p) first_[neighbor_[p]] = -1;
    }
    return 0;
  }

  // On one rank, where every atom has its neighbours: parts of a system without edges between them.
  int check_parts(double r_max) const {
    const Parts parts(atoms_.count, begin_, neighbor_, x_.data(), y_.data(), z_.data());
    std::vector<bool> tried(atoms_.count, false);
    for (long i = 0; i < atoms_.count; ++i) {
      if (atoms_.types[i] < 0 || parts.lone(i) || tried[i]) continue;
      for (long j = i; j < atoms_.count; ++j) tried[j] = tried[j] || !parts.apart(i, j);
      const long j = unseen(parts, i);
      if (j >= 0 && parts.fills_space(i, r_max)) return refuse_list(i < j ? i : j, i < j ? j : i);
    }
    return 0;
  }

  // What may be right and may be a list that lacks pairs, which nothing tells without positions: atoms without neighbours,
  // and on one rank groups of atoms without edges between them.
  bool warn_of_groups(bool single, double r_max) const {
    long real = 0, lone = 0, first = -1, groups = 0;
    std::vector<long> leaders;
    const Parts parts(atoms_.count, begin_, neighbor_, x_.data(), y_.data(), z_.data());
    for (long i = 0; i < atoms_.count; ++i) {
      if (atoms_.types[i] < 0) continue;
      ++real;
      const bool alone = i < atoms_.owned && parts.lone(i);
      if (alone && !atoms_.has_energy[atoms_.types[i]]) continue;
      if (alone && lone++ == 0) first = i;
      if (parts.leads(i)) ++groups;
    }
    if (real < 2 || (lone == 0 && (!single || groups < 2))) return false;
    char joined[200] = "", left[200] = "";
    if (single && groups > 1)
      std::snprintf(joined, sizeof joined,
                    "the neighbour list joins %ld atoms into %ld groups without pairs within %g Å between them. ", real, groups,
                    r_max);
    if (lone > 0)
      std::snprintf(left, sizeof left,
                    "In the neighbour list %ld of %ld atoms, such as atom %ld of the rank, have no neighbour within %g Å. ", lone,
                    atoms_.owned, first, r_max);
    // At once, or the ranks' words would mix.
    std::fprintf(stderr,
                 "mace model: warning: %s%sThis is right for separate molecules and atoms. If they are closer, pairs were left "
                 "out and the energy is another substance's: in LAMMPS write special_bonds lj/coul 1 1 1, remove neigh_modify "
                 "exclude, and use pair_style hybrid/overlay, not hybrid; a .pth compares the list with the positions. This is "
                 "said once.\n",
                 joined, left);
    return true;
  }

 private:
  // An atom that the part of i should see: a lone one without energy is as good as none.
  long unseen(const Parts& parts, long i) const {
    for (long j = 0; j < atoms_.count; ++j)
      if (atoms_.types[j] >= 0 && parts.apart(i, j) && (!parts.lone(j) || atoms_.has_energy[atoms_.types[j]])) return j;
    return -1;
  }

  // Neighbours of the atom at the end of an edge of j; of ghosts the rank has no neighbours.
  int check_through(long j, long edge) {
    const long i = neighbor_[edge];
    if (i >= atoms_.owned) return 0;
    const double x = x_[edge], y = y_[edge], z = z_[edge];
    const long begin = begin_[i], count = begin_[i + 1] - begin;
    for (long n = 0; n < count; ++n) {
      const double dx = x + x_[begin + n], dy = y + y_[begin + n], dz = z + z_[begin + n];
      near_[n] = dx * dx + dy * dy + dz * dz;
    }
    for (long n = 0; n < count; ++n) {
      const long k = neighbor_[begin + n];
      // The pair (k, j) was looked at from k.
      if (near_[n] >= reach2_ || k < j || atoms_.types[k] < 0 || (k == j && near_[n] < MARGIN * MARGIN)) continue;
      if (near_[n] < SAME_PLACE * SAME_PLACE) return refuse_place(j, k);
      if (!listed(k, x + x_[begin + n], y + y_[begin + n], z + z_[begin + n]) && atoms_.see(j, k))
        return refuse_list(j, k);
    }
    return 0;
  }

  // Whether the atom j that is being looked at has this neighbour there: of several images one.
  bool listed(long k, double x, double y, double z) const {
    for (long p = first_[k]; p >= 0; p = next_[p]) {
      const double dx = x_[p] - x, dy = y_[p] - y, dz = z_[p] - z;
      if (dx * dx + dy * dy + dz * dz < MARGIN * MARGIN) return true;
    }
    return false;
  }

  const Atoms& atoms_;
  double reach2_;
  std::vector<long> begin_, neighbor_;  // edges by centre
  std::vector<double> x_, y_, z_;
  std::vector<long> first_, next_;  // edges of one centre by neighbour
  std::vector<double> near_;        // squared distances from one atom to the neighbours of another
};

// When the list is compared: at the first evaluation, when the number of owned atoms has changed, and periodically,
// because a setting may change between two runs of a script.
class Schedule {
 public:
  // Å within which pairs are expected, 0 for not now.
  double reach(long owned, double r_max) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const bool fresh = owned != owned_;
    owned_ = owned;
    age_ = fresh ? 0 : (age_ + 1) % PERIOD;
    // Pairs that come in just before a cached list is rebuilt weigh next to nothing, and are the host's business.
    return age_ ? 0.0 : fresh ? r_max - MARGIN : 0.9 * r_max;
  }

  void warn_once(const Triangles& triangles, bool single, double r_max) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!warned_) warned_ = triangles.warn_of_groups(single, r_max);
  }

 private:
  std::mutex mutex_;
  long owned_ = -1, age_ = 0;
  bool warned_ = false;
};

Schedule schedule;

// The guard's edge, then all others. Masked edges, and those that arrive at atoms of other ranks, are beyond the cutoff.
void write_edges(const Atoms& atoms, const int64_t* kinds, const int64_t* index, const double* vectors,
                 const bool* mask, long nedge, double guard, int64_t* checked, double* places) {
  int64_t *sender = checked, *receiver = checked + nedge + 1;
  sender[0] = receiver[0] = 0;
  places[0] = places[1] = places[2] = guard;
  for (long e = 0; e < nedge; ++e) {
    const int64_t from = atoms.count ? index[e] : -1, to = atoms.count ? index[nedge + e] : -1;
    const bool owned = to >= 0 && to < atoms.owned;
    sender[e + 1] = from + 1;
    receiver[e + 1] = owned ? to + 1 : 0;
    const bool counts = owned && mask[e] && atoms.allowed[kinds[from] * atoms.ntypes + kinds[to]];
    for (long k = 0; k < 3; ++k) places[3 * (e + 1) + k] = counts ? vectors[3 * e + k] : guard;
  }
}

}  // namespace

// `single`: one frame on one rank, where every atom has its neighbours.
// Returns 0, or prints a sentence and returns another number. The types and edges that were found good become the graph
// that the rest of the program reads, as in graph_of_edges of graph/builders.py, so that nothing runs before the check.
extern "C" __attribute__((visibility("protected"))) int mace_check_input(
    const int64_t* types, long natom, long nowned, const int64_t* index, const double* vectors, const bool* mask,
    long nedge, const char* names, long nname, const bool* allowed, const bool* has_energy, long ntypes,
    long single, double r_max, double guard, int64_t* kinds, int64_t* checked, double* places) {
  // Without atoms the host's guards point at one that is not there.
  const Edges edges{index, index + nedge, vectors, mask, natom ? nedge : 0};
  const Atoms atoms{types, natom, nowned, ntypes, allowed, has_energy};
  if (int refused = check_values(atoms, edges, names, nname)) return refused;
  try {
    if (int refused = check_places(atoms, edges)) return refused;
    const double reach = schedule.reach(nowned, r_max);
    if (reach > 0.0) {
      Triangles triangles(atoms, edges, reach);
      if (int refused = triangles.check()) return refused;
      // Frames are parts of their own, and so may be types that do not see each other.
      if (single && atoms.all_see()) {
        if (int refused = triangles.check_parts(reach)) return refused;
      }
      if (edges.of_host()) schedule.warn_once(triangles, single, r_max);
    }
  } catch (const std::bad_alloc&) { return 3; }
  kinds[0] = 0;
  for (long i = 0; i < natom; ++i) kinds[i + 1] = types[i] < 0 ? 0 : types[i];
  write_edges(atoms, kinds + 1, index, vectors, mask, nedge, guard, checked, places);
  return 0;
}
