/* A QEMU plugin: how often each basic block of the guest ran, and what instructions it is made of.
 *
 * Prints one line a block: "block ADDRESS COUNT SYMBOL KINDS", where KINDS is a list of KIND*TIMES joined by ';'. A kind is the
 * mnemonic with the class of the first operand: "fmla_v.4s", "ldp_q", "ldr_w", "vfma.f32_q".
 *
 *   cc -shared -fPIC -O2 -DQEMU_PLUGIN_API=1 -o blocks.so blocks.c        (API 1 up to QEMU 8, 2 from QEMU 9)
 *   qemu-aarch64 -d plugin -D blocks.txt -plugin ./blocks.so PROGRAM
 *
 * Distributions do not package QEMU's plugin header, so the few functions in use are declared here.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef QEMU_PLUGIN_API
#define QEMU_PLUGIN_API 1
#endif
#define EXPORTED __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_cb)(qemu_plugin_id_t, struct qemu_plugin_tb*);
typedef void (*executed_cb)(unsigned vcpu, void* data);
typedef void (*exit_cb)(qemu_plugin_id_t, void* data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb*, executed_cb, int flags, void* data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_cb, void* data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
char* qemu_plugin_insn_disas(const struct qemu_plugin_insn*);
const char* qemu_plugin_insn_symbol(const struct qemu_plugin_insn*);
void qemu_plugin_outs(const char*);

EXPORTED int qemu_plugin_version = QEMU_PLUGIN_API;

enum { kLongestKind = 24, kMostKinds = 512 };

struct kind {
  char name[kLongestKind];
  unsigned times;
};

struct block {
  struct block* next;
  uint64_t address, count;
  char* symbol;
  unsigned kinds;
  struct kind kind[];
};

static struct block* blocks;

/* "fmla v3.4s, v1.4s, v2.s[0]" is of the kind "fmla_v.4s": the first operand without braces and register numbers. */
static void name_kind(const char* text, char* name) {
  size_t n = 0;
  while (isspace((unsigned char)*text)) ++text;
  while (*text && !isspace((unsigned char)*text) && n < kLongestKind - 8) name[n++] = *text++;
  while (isspace((unsigned char)*text)) ++text;
  if (*text == '{') ++text;
  if (isalpha((unsigned char)*text)) {
    name[n++] = '_';
    name[n++] = *text++;
    if (isdigit((unsigned char)*text)) {
      while (isdigit((unsigned char)*text)) ++text;
      if (*text == '.') {
        while ((*text == '.' || isalnum((unsigned char)*text)) && n < kLongestKind - 1) name[n++] = *text++;
      }
    } else {
      n -= 2; /* a condition, sp, xzr, a label: not a class of registers */
    }
  }
  name[n] = '\0';
}

static void executed(unsigned vcpu, void* data) {
  (void)vcpu;
  ++((struct block*)data)->count;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  static struct kind kinds[kMostKinds];
  unsigned count = 0;
  const size_t size = qemu_plugin_tb_n_insns(tb);
  for (size_t i = 0; i < size; ++i) {
    char* text = qemu_plugin_insn_disas(qemu_plugin_tb_get_insn(tb, i));
    char name[kLongestKind];
    name_kind(text ? text : "unknown", name);
    free(text);
    unsigned k = 0;
    while (k < count && strcmp(kinds[k].name, name) != 0) ++k;
    if (k == count) {
      strcpy(kinds[count].name, name);
      kinds[count++].times = 0;
    }
    ++kinds[k].times;
  }
  const char* symbol = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0));
  struct block* block = calloc(1, sizeof *block + count * sizeof *kinds);
  if (!block) abort();
  block->next = blocks;
  block->address = qemu_plugin_tb_vaddr(tb);
  block->symbol = strdup(symbol && *symbol ? symbol : "?");
  block->kinds = count;
  memcpy(block->kind, kinds, count * sizeof *kinds);
  blocks = block;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, block);
}

static void print_blocks(qemu_plugin_id_t id, void* data) {
  (void)id;
  (void)data;
  char text[64 + kLongestKind];
  for (const struct block* block = blocks; block; block = block->next) {
    if (!block->count) continue;
    snprintf(text, sizeof text, "block %" PRIx64 " %" PRIu64 " ", block->address, block->count);
    qemu_plugin_outs(text);
    qemu_plugin_outs(block->symbol);
    for (unsigned k = 0; k < block->kinds; ++k) {
      snprintf(text, sizeof text, "%c%s*%u", k ? ';' : ' ', block->kind[k].name, block->kind[k].times);
      qemu_plugin_outs(text);
    }
    qemu_plugin_outs("\n");
  }
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info* info, int argc, char** argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, print_blocks, NULL);
  return 0;
}
