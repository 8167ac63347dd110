//go:build 386 || arm || mips || mipsle || armbe || ppc || s390 || sparc || riscv

package format

// This file is compiled on 32-bit systems only, and does not compile there: a store maps files of any size, its numbers
// are 64 bits long, and packages above convert them to int. Without this line the build would fail there too, with
// errors that say nothing of the reason, or it would go wrong at run time.
const _ = pagecacheNeeds64BitSystem
