// y = a * x + y, the kernel that lesson 8 compiles for many architectures with several CUDA versions: python -m mllandscape.cuda.kernels
extern "C" __global__ void axpy(float a, const float *x, float *y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
