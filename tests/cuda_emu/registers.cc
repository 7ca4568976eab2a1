/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/cuda_emu/registers.cc - how many registers a kernel takes, as ptxas said when nvcc compiled
 * it, for a card refuses a launch whose threads together need more than there are.
 *
 * The emulated kernel is known by its address. The symbols of the file it is in give the name, and
 * the name of the same kernel stands in what ptxas said: in the logs in STRATA_EMU_PTXAS, if this
 * machine has nvcc. Of several architectures the most counts.
 */
#include "tests/cuda_emu/emu.h"

#include <cxxabi.h>
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <fstream>
#include <link.h>
#include <map>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_OF_REGISTERS 65536u /* of a multiprocessor, and the most a block can have */
#define MOST_OF_A_THREAD  255

typedef std::map<std::string, int> Table;

/* "layernorm_fwd<st_bf16, 8>", of what either compiler calls it. */
static std::string name_of(const char *symbol)
{
	int status = 0;
	char *text = abi::__cxa_demangle(symbol, NULL, NULL, &status);
	std::string s = text ? text : symbol;
	size_t end = s.find('<'), at;

	free(text);
	end = end == std::string::npos ? s.find('(') : s.rfind(">(") + 1;
	s = s.substr(0, end);
	if (s.compare(0, 5, "void ") == 0)
		s = s.substr(5);
	at = s.substr(0, s.find('<')).rfind("::"); /* nvcc keeps what is static in a namespace */
	return at == std::string::npos ? s : s.substr(at + 2);
}

static void read_log(const std::string &path, Table *table)
{
	std::ifstream in(path);
	std::string line, kernel;

	while (std::getline(in, line)) {
		size_t at = line.find("Compiling entry function '");

		if (at != std::string::npos) {
			at = line.find('\'') + 1;
			kernel = name_of(line.substr(at, line.find('\'', at) - at).c_str());
		}
		at = line.find("Used ");
		if (at != std::string::npos && line.find(" registers", at) != std::string::npos) {
			int n = (int)strtol(line.c_str() + at + 5, NULL, 10);

			if ((*table)[kernel] < n)
				(*table)[kernel] = n;
		}
	}
}

static Table read_logs(void)
{
	Table table;
	DIR *dir = opendir(STRATA_EMU_PTXAS);

	while (struct dirent *e = dir ? readdir(dir) : NULL) {
		std::string name = e->d_name;

		if (name.size() > 4 && name.compare(name.size() - 4, 4, ".log") == 0)
			read_log(std::string(STRATA_EMU_PTXAS "/") + name, &table);
	}
	if (dir)
		closedir(dir);
	return table;
}

/* The file that an address was loaded from. */
struct Mapped {
	const char *at = NULL;
	size_t bytes = 0;

	explicit Mapped(const char *path)
	{
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		struct stat st;
		void *p;

		if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > (off_t)sizeof(ElfW(Ehdr))) {
			p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
			at = p == MAP_FAILED ? NULL : (const char *)p;
			bytes = (size_t)st.st_size;
		}
		if (fd >= 0)
			close(fd);
	}
	~Mapped()
	{
		if (at)
			munmap((void *)at, bytes);
	}
	Mapped(const Mapped &) = delete;
	Mapped &operator=(const Mapped &) = delete;
};

/* Names of functions by address in memory, also of those that are not exported. */
static std::map<uintptr_t, std::string> read_symbols(const void *func)
{
	std::map<uintptr_t, std::string> names;
	Dl_info info;

	if (!dladdr(func, &info))
		return names;
	/* The program's own name may be relative to another directory than this one. */
	const Mapped file(info.dli_fname[0] == '/' ? info.dli_fname : "/proc/self/exe");
	const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)(const void *)file.at;

	if (!head || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0)
		return names;
	const ElfW(Shdr) *section = (const ElfW(Shdr) *)(const void *)(file.at + head->e_shoff);

	for (int i = 0; i < head->e_shnum; i++) {
		const char *text = file.at + section[section[i].sh_link].sh_offset;
		const ElfW(Sym) *symbol =
			(const ElfW(Sym) *)(const void *)(file.at + section[i].sh_offset);

		if (section[i].sh_type != SHT_SYMTAB)
			continue;
		for (size_t k = 0; k < section[i].sh_size / sizeof(*symbol); k++)
			if (ELF64_ST_TYPE(symbol[k].st_info) == STT_FUNC)
				names[(uintptr_t)info.dli_fbase + symbol[k].st_value] =
					text + symbol[k].st_name;
	}
	return names;
}

static Table &said(void)
{
	static Table &table = *new Table(read_logs());

	return table;
}

static Table &claimed = *new Table; /* by emuRegisters() */

void emuRegistersStart(void)
{
	claimed.clear();
}

int emuRegisters(const char *kernel, int n)
{
	auto it = said().find(kernel);

	if (n >= 0)
		claimed[kernel] = n;
	return it == said().end() ? -1 : it->second;
}

/* NULL: not known */
static const int *registers_of(const void *func)
{
	static std::map<uintptr_t, std::string> &names =
		*new std::map<uintptr_t, std::string>(read_symbols(func));
	const std::string name = name_of(names[(uintptr_t)func].c_str());

	for (const Table *table : { &claimed, &said() }) {
		auto it = table->find(name);

		if (it != table->end())
			return &it->second;
	}
	return NULL; /* a kernel of the tests */
}

cudaError_t emuCheckRegisters(const void *func, uint64_t threads)
{
	const int *n = claimed.empty() && said().empty() ? NULL : registers_of(func);

	if (!n)
		return cudaSuccess;
	/* A warp is given whole units of 256: a thread a multiple of 8. */
	const uint64_t each = ((uint64_t)*n + 7) / 8 * 8, warps = (threads + 31) / 32;

	return *n > MOST_OF_A_THREAD || each * 32 * warps > FILE_OF_REGISTERS
		       ? cudaErrorLaunchOutOfResources
		       : cudaSuccess;
}
