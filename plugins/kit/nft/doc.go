// Package nft is what the plugins that program nftables share: a connection whose
// socket buffers hold the largest transaction, and small functions that give the
// expressions of a rule. It runs no goroutine and keeps no state.
//
// Registers are the kernel's sixteen registers of 32 bits: Reg(0) to Reg(15). A value
// that is longer than four bytes takes the registers that follow, so that a key of
// several fields is laid out by loading its fields into neighbours.
package nft
