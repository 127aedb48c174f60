/* The process that carries out a scenario's commands on the running kernel.
 *
 * It gets a request over a socket, does that one system call (or touches memory, or forks), and answers.
 * All its memory is known: IMAGE_PAGES pages of code, data and stack in one private anonymous VMA at IMAGE, and a
 * PROT_NONE page behind it (for local drains). Everything else that exec gave it is unmapped. So a model can be
 * given the same pages (fastmlock/live/image.py), and mlockall() and fork() compare to the last page.
 *
 * Built by build.py:  gcc -O2 -static -nostdlib -ffreestanding ... -DIMAGE=... -DCODE_PAGES=... -DIMAGE_PAGES=... -DHEAP=...
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/prctl.h>
#include <ucontext.h>

#define PAGE 4096L
#define DATA (IMAGE + CODE_PAGES * PAGE)	/* first a page for arguments and results, then the stack */
#define IMAGE_END (IMAGE + IMAGE_PAGES * PAGE)
#define TASK_SIZE 0x7ffffffff000L
#define CHANNEL 3
#define KEPT __attribute__((section("worker"), noinline, used))
#define PART static inline __attribute__((always_inline))

enum { OP_SYSCALL, OP_TOUCH, OP_FORK };
/* What follows a request goes to DATA; a descriptor that comes with it takes the place of arg[fd_arg]. */
struct request { long op, nr, arg[6], fd_arg, answer_bytes; };
struct reply { long ret, signal; };			/* answer_bytes of DATA follow it */

extern char __start_worker[], __stop_worker[];

PART long sys(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long ret;
	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

PART void stop(int status)
{
	for (;;)
		sys(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

/* A fault of touch(): go on behind the access with the signal as result. Any other is an error of this program. */
KEPT static void on_fault(int signal, siginfo_t *info, void *context)
{
	greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
	long from, behind;
	(void)info;
	__asm__("lea touch_access(%%rip), %0; lea touch_behind(%%rip), %1" : "=r"(from), "=r"(behind));
	if (reg[REG_RIP] < from || reg[REG_RIP] >= behind)
		stop(99);
	reg[REG_RAX] = signal;
	reg[REG_RIP] = behind;
}

KEPT static void __attribute__((naked)) restore(void)
{
	__asm__("mov %0, %%eax; syscall" :: "i"(SYS_rt_sigreturn));
}

/* One byte of a page; 0 or the signal that it raised. */
KEPT static long touch(char *page, long write)
{
	long signal = 0;
	__asm__ volatile("test %2, %2; jz 1f\n"
			 "touch_access: movb $1, (%1); jmp touch_behind\n"
			 "1: movb (%1), %%cl\n"
			 "touch_behind:" : "+a"(signal) : "r"(page), "r"(write) : "rcx", "memory", "cc");
	return signal;
}

/* The child waits, writing nothing, until something comes over its socket; then each writes its data pages, so that
 * the parent breaks the sharing first and the child after it, always in the same order. */
KEPT static long forked(long channel)
{
	long ret = SYS_clone, page = DATA;
	__asm__ volatile("mov %3, %%edi; xor %%esi, %%esi; xor %%edx, %%edx; xor %%r10d, %%r10d; xor %%r8d, %%r8d\n"
			 "syscall\n"
			 "mov %%rax, %%rbx\n"
			 "test %%rax, %%rax; jnz 1f\n"
			 "mov %4, %%eax; mov %2, %%rdi; mov %5, %%r10d; xor %%r9d, %%r9d\n"
			 "syscall\n"
			 "1: lock; orb $0, (%1)\n"
			 "add $4096, %1; cmp %6, %1; jb 1b\n"
			 "mov %%rbx, %%rax"
			 : "+a"(ret), "+r"(page)
			 : "r"(channel), "i"(SIGCHLD), "i"(SYS_recvfrom), "i"(MSG_PEEK), "r"(IMAGE_END)
			 : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
	return ret;
}

KEPT static void serve(void)
{
	/* laid out here and not by the C library, which is not there */
	struct { void *handler; long flags; void *restorer; long mask; } fault, ignore;
	struct { size_t len; int level, type, fd, pad; } control;
	struct request rq;
	struct reply answer;
	struct iovec in[2], out[2];
	struct msghdr message;

	fault.handler = (void *)on_fault;
	fault.flags = SA_NODEFER | SA_SIGINFO | 0x04000000L;	/* SA_RESTORER */
	fault.restorer = (void *)restore;
	fault.mask = 0;
	ignore.handler = (void *)SIG_IGN;
	ignore.flags = 0x04000000L;
	ignore.restorer = (void *)restore;
	ignore.mask = 0;
	sys(SYS_rt_sigaction, SIGSEGV, (long)&fault, 0, 8, 0, 0);
	sys(SYS_rt_sigaction, SIGBUS, (long)&fault, 0, 8, 0, 0);
	sys(SYS_rt_sigaction, SIGCHLD, (long)&ignore, 0, 8, 0, 0);
	sys(SYS_munmap, 0, IMAGE, 0, 0, 0, 0);
	sys(SYS_munmap, IMAGE_END + PAGE, TASK_SIZE - IMAGE_END - PAGE, 0, 0, 0, 0);
	in[0].iov_base = &rq;
	in[0].iov_len = sizeof rq;
	in[1].iov_base = (void *)DATA;
	in[1].iov_len = PAGE;
	out[0].iov_base = &answer;
	out[0].iov_len = sizeof answer;
	out[1].iov_base = (void *)DATA;
	for (;;) {
		long done = 0, passed = -1;
		message.msg_name = 0;
		message.msg_namelen = 0;
		message.msg_iov = in;
		message.msg_iovlen = 2;
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
		message.msg_flags = 0;
		control.len = 0;
		if (sys(SYS_recvmsg, CHANNEL, (long)&message, 0, 0, 0, 0) < (long)sizeof rq)
			stop(0);	/* the other end is gone */
		if (message.msg_controllen >= 20 && control.type == SCM_RIGHTS)
			passed = control.fd;
		answer.ret = 0;
		answer.signal = 0;
		if (rq.op == OP_SYSCALL) {
			if (passed >= 0)
				rq.arg[rq.fd_arg] = passed;
			answer.ret = sys(rq.nr, rq.arg[0], rq.arg[1], rq.arg[2], rq.arg[3], rq.arg[4], rq.arg[5]);
		} else if (rq.op == OP_TOUCH) {
			for (; done < rq.arg[1] && !answer.signal; done += !answer.signal)
				answer.signal = touch((char *)rq.arg[0] + done * PAGE, rq.arg[2]);
			answer.ret = done;
		} else {
			answer.ret = forked(passed);
			if (!answer.ret) {
				sys(SYS_dup2, passed, CHANNEL, 0, 0, 0, 0);
				sys(SYS_close, passed, 0, 0, 0, 0, 0);
				continue;
			}
		}
		if (passed >= 0)
			sys(SYS_close, passed, 0, 0, 0, 0, 0);
		out[1].iov_len = rq.answer_bytes;
		message.msg_iov = out;
		message.msg_iovlen = 2;
		message.msg_control = 0;
		message.msg_controllen = 0;
		sys(SYS_sendmsg, CHANNEL, (long)&message, MSG_NOSIGNAL, 0, 0, 0);
	}
}

/* Lays the image out and goes on in it. Exit status 98: the kernel does not give that memory. */
__attribute__((noreturn, used)) static void begin(void)
{
	long size = IMAGE_PAGES * PAGE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	/* where the heap begins; if the kernel does not allow it, brk answers from elsewhere, and the caller sees that */
	struct { unsigned long code[2], data[2], brk[2], stack, args[2], env[2]; void *auxv; unsigned size, exe; } map;
	map.code[0] = map.args[0] = map.args[1] = map.env[0] = map.env[1] = IMAGE;
	map.code[1] = map.data[0] = DATA;
	map.data[1] = map.stack = IMAGE_END;
	map.brk[0] = map.brk[1] = HEAP;
	map.auxv = 0;
	map.size = 0;
	map.exe = -1;
	if (__stop_worker - __start_worker > CODE_PAGES * PAGE)
		stop(97);
	sys(SYS_close_range, CHANNEL + 1, ~0U, 0, 0, 0, 0);	/* after an exec: the file it came from */
	sys(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, (long)&map, sizeof map, 0, 0);
	sys(SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0, 0);
	sys(SYS_prctl, PR_SET_NAME, (long)"fastmlock-work", 0, 0, 0, 0);
	if (sys(SYS_mmap, IMAGE, size, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0) != IMAGE
	    || sys(SYS_mmap, IMAGE_END, PAGE, PROT_NONE, flags, -1, 0) != IMAGE_END)
		stop(98);
	for (long at = 0; at < size; at += PAGE)
		*(volatile char *)(IMAGE + at) = 0;
	for (char *from = __start_worker, *to = (char *)IMAGE; from < __stop_worker;)
		*(volatile char *)to++ = *from++;
	long entry;
	__asm__("lea serve(%%rip), %0" : "=r"(entry));		/* no relocations are done here */
	entry += IMAGE - (long)__start_worker;
	__asm__ volatile("mov %0, %%rsp; call *%1" :: "r"(IMAGE_END), "r"(entry));
	__builtin_unreachable();
}

__attribute__((naked, noreturn)) void _start(void)
{
	__asm__("and $-16, %rsp; call begin");
}
