// Package ownedfields makes the bookkeeping of managed fields cheaper without
// changing a byte of its result: a type converter for the field manager of
// k8s.io/apimachinery whose values skip, when two versions of an object are
// compared, what is equal in both.
package ownedfields
