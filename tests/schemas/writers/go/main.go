// The command of ../java, as programs in Go write it with hamba/avro and with goavro.
//
//	go run . SCHEMA FOLDER
package main

import (
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"time"

	hamba "github.com/hamba/avro/v2"
	"github.com/linkedin/goavro/v2"
)

var issued = time.Date(2026, 1, 2, 3, 4, 5, 123_000_000, time.UTC)

// What hamba/avro takes from struct tags.
type order struct {
	CommandID   string     `avro:"command_id"`
	ReturnNo    string     `avro:"return_no"`
	WarehouseNo string     `avro:"warehouse_no"`
	Logistics   *string    `avro:"logistics_code"`
	CreateMode  *string    `avro:"create_mode"`
	Remark      *string    `avro:"remark"`
	Details     []line     `avro:"details"`
	IssuedAt    *time.Time `avro:"issued_at"`
	ExpiresAt   *time.Time `avro:"expires_at"`
	Cause       *cause     `avro:"cause"`
}

type line struct {
	SpecNo     string   `avro:"spec_no"`
	Num        *big.Rat `avro:"num"`
	UnitName   *string  `avro:"unit_name"`
	PositionNo *string  `avro:"position_no"`
	BatchNo    *string  `avro:"batch_no"`
	ExpireDate *string  `avro:"expire_date"`
	Defect     *bool    `avro:"defect"`
	Remark     *string  `avro:"remark"`
}

type cause struct {
	Next *cause `avro:"next"`
}

func to[T any](value T) *T { return &value }

const few = `{"type":"record","name":"Order","namespace":"com.example","fields":[
{"name":"cause","type":["null",{"type":"record","name":"Cause","fields":[{"name":"next","type":["null","Cause"]}]}]},
{"name":"command_id","type":"string"},{"name":"return_no","type":"string"},{"name":"warehouse_no","type":"string"},
{"name":"create_mode","type":["null","string"]},{"name":"remark","type":["null","string"]},
{"name":"issued_at","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},
{"name":"details","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
{"name":"spec_no","type":"string"},{"name":"num","type":{"type":"fixed","name":"Q","size":12,"logicalType":"decimal","precision":20,"scale":6}},
{"name":"unit_name","type":["null","string"]},{"name":"defect","type":["null","boolean"]}]}}}]}`

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func keep(name, schema string, datum []byte) {
	var text any
	if err := json.Unmarshal([]byte(schema), &text); err != nil {
		panic(err)
	}
	kept := map[string]string{"datum": hex.EncodeToString(datum), "schema": string(must(json.Marshal(text)))}
	file := filepath.Join(os.Args[2], name+".json")
	if err := os.WriteFile(file, append(must(json.MarshalIndent(kept, "", "  ")), '\n'), 0o644); err != nil {
		panic(err)
	}
}

func main() {
	own := string(must(os.ReadFile(os.Args[1])))
	value := order{
		CommandID: "w-1", ReturnNo: "CT2026-001", WarehouseNo: "WH-01", CreateMode: to("SUBMITTED"), Remark: to("破损退货"),
		IssuedAt: &issued, Cause: &cause{Next: &cause{}},
		Details: []line{
			{SpecNo: "SKU-1", Num: big.NewRat(5, 2), UnitName: to("件"), Defect: to(true)},
			{SpecNo: "SKU-2", Num: big.NewRat(100_025, 100), Defect: to(false)},
		},
	}
	keep("hamba-own", own, must(hamba.Marshal(must(hamba.Parse(own)), value)))
	keep("hamba-few", few, must(hamba.Marshal(must(hamba.Parse(few)), value)))

	// goavro takes maps, unions as maps of one.
	lines := []any{
		map[string]any{"spec_no": "SKU-1", "num": big.NewRat(5, 2), "unit_name": goavro.Union("string", "件"), "defect": goavro.Union("boolean", true)},
		map[string]any{"spec_no": "SKU-2", "num": big.NewRat(100_025, 100), "unit_name": nil, "defect": goavro.Union("boolean", false)},
	}
	native := map[string]any{
		"command_id": "w-1", "return_no": "CT2026-001", "warehouse_no": "WH-01", "remark": goavro.Union("string", "破损退货"),
		"details": lines, "issued_at": goavro.Union("long.timestamp-millis", issued),
		"create_mode": goavro.Union("io.wdt.connector.CreateMode", "SUBMITTED"),
	}
	codec := must(goavro.NewCodec(own))
	keep("goavro-own", own, must(codec.BinaryFromNative(nil, native)))
}
