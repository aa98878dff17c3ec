// SPDX-License-Identifier: Apache-2.0
// A 32-bit program without a library: system calls by INT 0x80 and through the vDSO (SYSENTER), x87, SSE, signals, segments.
typedef unsigned int u32;
typedef unsigned long long u64;

static u32 gate;  // __kernel_vsyscall

static int call_interrupt(int number, u32 a, u32 b, u32 c, u32 d, u32 e) {
  int result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
  return result;
}

static int call_gate(int number, u32 a, u32 b, u32 c, u32 d, u32 e) {
  int result;
  __asm__ volatile("call *%[gate]" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [gate] "m"(gate) : "memory");
  return result;
}

static void print(const char* text) {
  u32 length = 0;
  while (text[length]) ++length;
  call_interrupt(4, 1, (u32)text, length, 0, 0);
}

static void print_hex(const char* name, u64 value) {
  char text[20];
  print(name);
  for (int i = 0; i < 16; ++i) text[i + 1] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
  text[0] = ' ', text[17] = '\n', text[18] = 0;
  print(text);
}

static volatile u32 handled, fault_address, resume_at;
struct context32 {  // what the kernel pushes for a handler without SA_SIGINFO
  u32 gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, trap, error, eip, cs, flags, esp_at_signal, ss, fpu, mask, cr2;
};
static void handler(int number, struct context32 context) {
  volatile struct context32* frame = &context;
  handled = handled * 100 + (u32)number;
  fault_address = frame->cr2;
  if (resume_at) frame->eip = resume_at;
}

__asm__(".globl restorer\nrestorer:\n\tpopl %eax\n\tmovl $119, %eax\n\tint $0x80");
extern void restorer(void);
struct action {
  void (*handler)(int, struct context32);
  u32 mask, flags;
  void (*restorer)(void);
};

static void install(int number) {
  struct action action = {handler, 0, 0x04000000, restorer};
  call_interrupt(67, (u32)number, (u32)&action, 0, 0, 0);
}

#define RESUME(code, ...)                                                                                  \
  __asm__ volatile("movl $1f, %[resume]\n\t" code "\n1:\tmovl $0, %[resume]" : [resume] "=m"(resume_at) : __VA_ARGS__ : "eax", "ecx", "edx", "memory", "cc")

static void signals(void) {
  const int numbers[] = {4, 5, 7, 8, 10, 11};
  for (int i = 0; i < 6; ++i) install(numbers[i]);
  RESUME("ud2", "r"(0));
  RESUME("movl 0x10, %%eax", "r"(0));
  print_hex("fault at", fault_address);
  RESUME("xorl %%ecx, %%ecx; movl $5, %%eax; cltd; idivl %%ecx", "r"(0));
  RESUME("hlt", "r"(0));
  RESUME("int3", "r"(0));
  RESUME("movl $0x7ffffff, %%eax; movl %%eax, %%fs", "r"(0));
  call_interrupt(37, (u32)call_interrupt(20, 0, 0, 0, 0, 0), 10, 0, 0, 0);  // kill(getpid(), SIGUSR1)
  print_hex("handled", handled);
}

static void floating(void) {
  volatile long double x = 1;
  volatile double y = 1;
  volatile float z = 1;
  for (int i = 1; i < 100000; ++i) {
    x = x * 1.0000001L + 1.0L / i;
    y = y * 1.0000001 + 1.0 / i;
    z = z * 1.0000001f + 1.0f / (float)i;
  }
  union {
    long double x;
    u64 bits[2];
  } a = {.x = x};
  union {
    double y;
    u64 bits;
  } b = {.y = y};
  union {
    float z;
    u32 bits;
  } c = {.z = z};
  print_hex("x87 fraction", a.bits[0]);
  print_hex("x87 exponent", a.bits[1] & 0xffff);
  print_hex("double", b.bits);
  print_hex("float", c.bits);
  long double angle = 0.7L, sine, cosine, tangent, power;
  __asm__("fsincos" : "=t"(cosine), "=u"(sine) : "0"(angle));
  __asm__("fpatan" : "=t"(tangent) : "0"(cosine), "u"(sine) : "st(1)");
  __asm__("fyl2x" : "=t"(power) : "0"(angle), "u"(2.0L) : "st(1)");
  a.x = sine, print_hex("fsin", a.bits[0]);
  a.x = tangent, print_hex("fpatan", a.bits[0]);
  a.x = power, print_hex("fyl2x", a.bits[0]);
  unsigned char packed[10];
  __asm__("fbstp %0" : "=m"(packed) : "t"(1234567890123.0L) : "st");
  print_hex("fbstp", *(u64*)packed);
  u32 vector[4] = {1, 2, 3, 4};
  __asm__ volatile("movups %0, %%xmm0\n\tmovaps %%xmm0, %%xmm1\n\tpaddd %%xmm1, %%xmm0\n\tpmuludq %%xmm1, %%xmm0\n\tpshufd $0x1b, %%xmm0, %%xmm0\n\tmovups %%xmm0, %0"
                   : "+m"(vector)::"xmm0", "xmm1");
  print_hex("sse", (u64)vector[1] << 32 | vector[2]);
}

static void old_instructions(void) {
  u32 result, carry;
  __asm__("movl $0x0908, %%eax; addb $0x09, %%al; aaa; movl %%eax, %0" : "=r"(result)::"eax", "cc");
  print_hex("aaa", result);
  __asm__("movb $0x79, %%al; addb $0x35, %%al; daa; movzbl %%al, %0; setc %b1; movzbl %b1, %1" : "=r"(result), "=q"(carry)::"eax", "cc");
  print_hex("daa", (u64)carry << 32 | result);
  __asm__("movl $63, %%eax; aam; movl %%eax, %0" : "=r"(result)::"eax", "cc");
  print_hex("aam", result);
  __asm__("movl $0x0603, %%eax; aad; movl %%eax, %0" : "=r"(result)::"eax", "cc");
  print_hex("aad", result);
  __asm__("pushal; movl $0x1234, %%eax; popal; pushl %%ds; popl %0; pushfl; popl %1" : "=r"(result), "=r"(carry)::"memory");
  print_hex("selectors", (u64)result << 32 | (carry & 0x200));
  __asm__("movl $0x30, %%ecx; movl $0x33, %%edx; arpl %%dx, %%cx; movl %%ecx, %0; larl %%edx, %1" : "=r"(result), "=r"(carry)::"ecx", "edx", "cc");
  print_hex("arpl, lar", (u64)carry << 32 | result);
  static unsigned char table[256];
  for (int i = 0; i < 256; ++i) table[i] = (unsigned char)(i * 7);
  __asm__("movb $77, %%al; xlatb; salc_test: movzbl %%al, %0" : "=r"(result) : "b"(table) : "eax");
  print_hex("xlat", result);
}

static void far_calls(void) {
  u32 result;
  // Into 64-bit mode and back, through the selectors that Linux has for both.
  __asm__ volatile("lcall $0x33, $1f\n\tjmp 2f\n1:\t.byte 0x48, 0xb8\n\t.quad 0x123456789abcdef0\n\t.byte 0x48, 0xc1, 0xe8, 0x20\n\tlret\n2:\tmovl %%eax, %0"
                   : "=r"(result)::"eax", "memory", "cc");
  print_hex("64-bit code", result);
}

void run(u32* stack) {
  u32 count = stack[0];
  u32* vector = stack + 1 + count + 1;
  while (*vector) ++vector;
  for (++vector; vector[0]; vector += 2) {
    if (vector[0] == 32) gate = vector[1];  // AT_SYSINFO
  }
  print(gate ? "vDSO\n" : "no vDSO\n");
  if (gate) {
    int same = call_gate(20, 0, 0, 0, 0, 0) == call_interrupt(20, 0, 0, 0, 0, 0);
    int error = call_gate(6, 99, 0, 0, 0, 0), sum = 0;
    for (int i = 0; i < 20000; ++i) sum += call_gate(6, 99, 0, 0, 0, 0) + call_interrupt(199, 0, 0, 0, 0, 0);
    print_hex("same pid", (u64)same);
    print_hex("close(99)", (u64)(u32)error);
    print_hex("sum", (u64)(u32)sum);
    static u32 area[2] = {1, 0};
    print_hex("mmap", (u64)((u32)call_gate(192, 0, 4096, 3, 0x22, (u32)-1) & 0xfff));
  }
  floating();
  old_instructions();
  signals();
  far_calls();
  call_interrupt(1, 42, 0, 0, 0, 0);
}
__asm__(".globl _start\n_start:\n\tmovl %esp, %eax\n\tandl $-16, %esp\n\tsubl $12, %esp\n\tpushl %eax\n\tcall run");
