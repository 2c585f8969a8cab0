
// --- Convolution and the linear map after it, a block of receivers at a time: see blocks.py

namespace {

constexpr int64_t RECEIVERS = @RECEIVERS@, MULTIPLE = @MULTIPLE@;

// Receivers of a block; all blocks but the last have the same number.
int64_t rows_of_block(int64_t nnode) {
  const int64_t blocks = nnode > RECEIVERS ? (nnode + RECEIVERS - 1) / RECEIVERS : 1;
  const int64_t rows = (nnode + blocks * MULTIPLE - 1) / (blocks * MULTIPLE) * MULTIPLE;
  return rows < nnode ? rows : nnode;
}

// Where the row of a contiguous array begins that has this number.
void* place_of(AtenTensorHandle tensor, int64_t number) {
  const int64_t rows = size(tensor, 0);
  if (rows == 0) return data(tensor);
  const int64_t bytes = numel(tensor) / rows * int64_t(aoti_torch_dtype_element_size(dtype(tensor)));
  return static_cast<char*>(data(tensor)) + number * bytes;
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cuda_triton_convolve_mix(
    AtenTensorHandle, AtenTensorHandle sent, AtenTensorHandle packed, AtenTensorHandle row, AtenTensorHandle source,
    AtenTensorHandle order, AtenTensorHandle begin, AtenTensorHandle table, AtenTensorHandle matrices,
    AtenTensorHandle begins, AtenTensorHandle paths, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle,
    const char* code, int64_t width, AtenTensorHandle* out) {
  const int64_t nnode = size(begin, 0) - 1, count = size(order, 0), channels = size(sent, 2);
  const int64_t outputs = size(matrices, 3), rows = rows_of_block(nnode);
  Convolution* module = find(CONVOLUTIONS, code);
  Map* map = map_of(channels, outputs, 0);
  if (!module || !map) return FAILED;
  const Place place(sent);
  if (!countable(nnode * width * outputs) || !countable(numel(sent))) return FAILED;
  *out = empty(3, nnode, width, outputs, dtype(sent), place);
  AtenTensorHandle messages = empty(3, rows, module->width, channels, dtype(sent), place);
  AOTITorchError error = FAILED;
  if (*out && messages && aligned(sent) && aligned(packed) && aligned(table) && aligned(matrices)) error = OK;
  for (int64_t first = 0; first < nnode && !error; first += rows) {
    const int64_t number = nnode - first < rows ? nnode - first : rows;
    error = launch(module->forward, place, number * module->forward_blocks, 1, 1, data(packed), data(row), data(source),
                   place_of(begin, first), data(table), data(sent), data(messages), count, number);
    if (!error)
      error = launch_map(*map, place, data(messages), number, module->width, matrices, begins, paths, data(matrices),
                         width, place_of(*out, first));
  }
  if (messages) aoti_torch_delete_tensor_object(messages);
  return error;
}

extern "C" AOTITorchError aoti_torch_cuda_triton_convolve_mix_backward(
    AtenTensorHandle gradient, AtenTensorHandle vectors, AtenTensorHandle sent, AtenTensorHandle packed,
    AtenTensorHandle row, AtenTensorHandle source, AtenTensorHandle order, AtenTensorHandle begin,
    AtenTensorHandle table, AtenTensorHandle matrices, AtenTensorHandle begins, AtenTensorHandle paths,
    const char* code, int64_t senders, AtenTensorHandle* d_vectors, AtenTensorHandle* d_sent) {
  const int64_t nnode = size(begin, 0) - 1, count = size(order, 0), channels = size(sent, 2);
  const int64_t rows = rows_of_block(nnode);
  Convolution* module = find(CONVOLUTIONS, code);
  Map* map = map_of(size(gradient, 2), channels, 0);
  if (!module || !map) return FAILED;
  const Place place(sent);
  *d_vectors = empty(2, size(vectors, 0), 3, 1, dtype(vectors), place);
  *d_sent = senders ? empty(3, size(sent, 0), size(sent, 1), channels, dtype(sent), place)
                    : empty(1, 0, 1, 1, dtype(sent), place);
  AtenTensorHandle sums = empty(3, module->parts, 4, count, dtype(sent), place);
  AtenTensorHandle arriving = empty(3, rows, module->width, channels, dtype(sent), place);
  AOTITorchError error = FAILED;
  if (*d_vectors && *d_sent && sums && arriving && aligned(gradient) && aligned(vectors) && aligned(sent) &&
      aligned(packed) && aligned(table) && aligned(matrices))
    error = OK;
  // Edges in no list, as the guard's, have no gradient; senders are added to.
  if (!error) error = clear(*d_vectors, place);
  if (!error) error = clear(*d_sent, place);
  Program& backward = senders ? module->backward_add : module->backward_none;
  for (int64_t first = 0; first < nnode && !error; first += rows) {
    const int64_t number = nnode - first < rows ? nnode - first : rows;
    error = launch_map(*map, place, place_of(gradient, first), number, size(gradient, 1), matrices, begins, paths,
                       data(matrices), module->width, data(arriving));
    if (!error)
      error = launch(backward, place, number * module->backward_blocks, 1, 1, data(packed), data(row), data(source),
                     place_of(begin, first), data(table), data(sent), data(arriving), data(sums), data(*d_sent), count,
                     number);
  }
  if (!error)
    error = launch(module->edge_gradient, place, count / EDGES_PER_PROGRAM + 1, 1, 1, data(vectors), data(order),
                   data(begin), data(sums), data(*d_vectors), count, nnode);
  if (sums) aoti_torch_delete_tensor_object(sums);
  if (arriving) aoti_torch_delete_tensor_object(arriving);
  return error;
}
