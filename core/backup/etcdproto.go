package backup

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// keyValue is etcd's mvccpb.KeyValue, lease its leasepb.Lease, which no library exports. The numbers of the fields are
// those of etcd's .proto files.
type keyValue struct {
	key                  []byte
	create, mod, version int64
	value                []byte
	lease                int64
}

type lease struct{ id, ttl int64 }

func (kv *keyValue) encode() []byte {
	b := appendBytes(nil, 1, kv.key)
	b = appendInt(appendInt(appendInt(b, 2, kv.create), 3, kv.mod), 4, kv.version)
	b = appendBytes(b, 5, kv.value)
	return appendInt(b, 6, kv.lease)
}

func (l lease) encode() []byte { return appendInt(appendInt(nil, 1, l.id), 2, l.ttl) }

func appendBytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func appendInt(b []byte, n protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
}

func decodeKeyValue(b []byte) (kv keyValue, err error) {
	err = decodeFields(b, func(n protowire.Number, i int64, v []byte) {
		switch n {
		case 1:
			kv.key = v
		case 2:
			kv.create = i
		case 3:
			kv.mod = i
		case 4:
			kv.version = i
		case 5:
			kv.value = v
		case 6:
			kv.lease = i
		}
	})
	if err == nil && len(kv.key) == 0 {
		err = fmt.Errorf("%w: a record of etcd has no key", ErrBackup)
	}
	return kv, err
}

func decodeLease(b []byte) (l lease, err error) {
	err = decodeFields(b, func(n protowire.Number, i int64, _ []byte) {
		switch n {
		case 1:
			l.id = i
		case 2:
			l.ttl = i
		}
	})
	return l, err
}

// decodeFields calls f for each number and each string of a message.
func decodeFields(b []byte, f func(n protowire.Number, i int64, v []byte)) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("%w: a record of etcd: %w", ErrBackup, protowire.ParseError(size))
		}
		b = b[size:]
		switch kind {
		case protowire.VarintType:
			var i uint64
			if i, size = protowire.ConsumeVarint(b); size >= 0 {
				f(n, int64(i), nil)
			}
		case protowire.BytesType:
			var v []byte
			if v, size = protowire.ConsumeBytes(b); size >= 0 {
				f(n, 0, v)
			}
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return fmt.Errorf("%w: a record of etcd: %w", ErrBackup, protowire.ParseError(size))
		}
		b = b[size:]
	}
	return nil
}
