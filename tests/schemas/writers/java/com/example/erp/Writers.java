package com.example.erp;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.avro.Conversion;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.DatumWriter;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.reflect.AvroSchema;
import org.apache.avro.reflect.Nullable;
import org.apache.avro.reflect.ReflectData;

/**
 * One command, written in the ways Java programs write it, with whichever Avro is on the class path.
 *
 * <p>Arguments: its version, our schema of the command, the folder for the files.
 */
public final class Writers {
  private static final long ISSUED = 1_767_323_045_123L;
  private static final String FEW =
      "{\"type\":\"bytes\",\"logicalType\":\"decimal\",\"precision\":12,\"scale\":2}";

  /** What reflection makes of nested classes: a namespace that ends in a dollar sign before 1.9. */
  public static class Order {
    Map<String, String> tags = Collections.singletonMap("渠道", "pdd");
    String command_id = "w-1";
    String return_no = "CT2026-001";
    String warehouse_no = "WH-01";
    Mode create_mode = Mode.SUBMITTED;
    @Nullable String remark = "破损退货";
    @Nullable Cause cause = new Cause(new Cause(null));
    long issued_at = ISSUED;
    List<Line> details =
        Arrays.asList(new Line("SKU-1", "2.50", "件", true), new Line("SKU-2", "1000.25", null, false));
  }

  public enum Mode { SUBMITTED, APPROVED }

  /** Contains itself. */
  public static class Cause {
    @Nullable Cause next;

    Cause(Cause next) {
      this.next = next;
    }
  }

  public static class Line {
    String spec_no;
    @AvroSchema(FEW) BigDecimal num;
    @Nullable String unit_name;
    boolean defect;

    Line(String specNo, String num, String unitName, boolean defect) {
      this.spec_no = specNo;
      this.num = new BigDecimal(num);
      this.unit_name = unitName;
      this.defect = defect;
    }
  }

  /** A quantity that reflection writes as a string. */
  public static class Loose {
    String command_id = "w-1";
    String return_no = "CT2026-001";
    String warehouse_no = "WH-01";
    List<LooseLine> details = Collections.singletonList(new LooseLine());
  }

  public static class LooseLine {
    String spec_no = "SKU-1";
    BigDecimal num = new BigDecimal("2.50");
  }

  private final String version;
  private final Path folder;

  private Writers(String version, Path folder) {
    this.version = version;
    this.folder = folder;
  }

  public static void main(String[] arguments) throws Exception {
    Writers writers = new Writers(arguments[0], Paths.get(arguments[2]));
    String own = new String(Files.readAllBytes(Paths.get(arguments[1])), StandardCharsets.UTF_8);
    writers.own(parse(own));
    writers.reflected();
    writers.names();
    writers.quantities();
  }

  /** Our own schema, as a generic record. */
  private void own(Schema schema) throws IOException {
    write("own", schema, order(schema, 4), generic(), false);
    write("blocks", schema, order(schema, 4), generic(), true);
  }

  private void reflected() throws IOException {
    ReflectData data = new ReflectData();
    data.addLogicalTypeConversion(new Conversions.DecimalConversion());
    write("reflect", data.getSchema(Order.class), new Order(), data, false);
    ReflectData plain = new ReflectData();
    write("reflect-text", plain.getSchema(Loose.class), new Loose(), plain, false);
  }

  /** Names in any script, defaults that do not fit, and types of no bytes or no end. */
  private void names() throws Exception {
    String text =
        "{'type':'record','name':'采购退货','namespace':'mysql-erp.订单','fields':["
            + "{'name':'备注','type':'string','default':null},"
            + "{'name':'次数','type':'int','default':'0'},"
            + "{'name':'状态','type':{'type':'enum','name':'状态','symbols':['完好','破损']}},"
            + "{'name':'none','type':'null'},"
            + "{'name':'nothing','type':{'type':'record','name':'Nothing','fields':[]}},"
            + "{'name':'nulls','type':{'type':'array','items':'null'}},"
            + "{'name':'nothings','type':{'type':'map','values':'Nothing'}},"
            + "{'name':'cause','type':['null',{'type':'record','name':'Cause','fields':["
            + "{'name':'next','type':['null','Cause']}]}]},"
            + "{'name':'command_id','type':'string'},{'name':'return_no','type':'string'},"
            + "{'name':'warehouse_no','type':'string'},{'name':'create_mode','type':'string'},"
            + "{'name':'remark','type':['string','null']},"
            + "{'name':'issued_at','type':{'type':'long','logicalType':'timestamp-micros'}},"
            + "{'name':'details','type':{'type':'array','items':" + line(FEW) + "}}]}";
    Schema schema = parse(text.replace('\'', '"'));
    GenericData.Record order = order(schema, 2);
    order.put("备注", "x");
    order.put("次数", 3);
    order.put("状态", new GenericData.EnumSymbol(schema.getField("状态").schema(), "破损"));
    GenericData.Record nothing = new GenericData.Record(schema.getField("nothing").schema());
    order.put("nothing", nothing);
    order.put("nulls", Arrays.asList(null, null, null));
    order.put("nothings", Collections.singletonMap("k", nothing));
    GenericData.Record cause = new GenericData.Record(schema.getField("cause").schema().getTypes().get(1));
    GenericData.Record inner = new GenericData.Record(cause.getSchema());
    cause.put("next", inner);
    order.put("cause", cause);
    order.put("issued_at", ISSUED * 1000 + 999);
    write("names", schema, order, generic(), false);
    write("names-blocks", schema, order, generic(), true);
  }

  /** The quantity as other types: exact or refused. */
  private void quantities() throws Exception {
    write("fixed", "{'type':'fixed','name':'Q','size':9,'logicalType':'decimal','precision':19,'scale':2}", null);
    // Without a precision Java, too, takes it for plain bytes.
    write("no-precision", "{'type':'bytes','logicalType':'decimal','scale':2}", new int[] {250, 100_025});
    write("date", FEW, null);
    try {
      Class<?> conversion = Class.forName("org.apache.avro.Conversions$BigDecimalConversion");
      GenericData data = new GenericData();
      data.addLogicalTypeConversion((Conversion<?>) conversion.getConstructor().newInstance());
      Schema schema = few("{'type':'bytes','logicalType':'big-decimal'}", "");
      write("big-decimal", schema, order(schema, 2), data, false);
    } catch (ClassNotFoundException absent) {
      // Before 1.11.
    }
  }

  private void write(String name, String quantity, int[] unscaled) throws Exception {
    boolean date = name.equals("date");
    String more = date ? ",{'name':'expires_at','type':{'type':'int','logicalType':'date'}}" : "";
    Schema schema = few(quantity, more);
    GenericData.Record order = order(schema, 2);
    if (date) {
      order.put("expires_at", 32_872);
    }
    if (unscaled != null) {
      int at = 0;
      for (Object line : (List<?>) order.get("details")) {
        byte[] bytes = BigInteger.valueOf(unscaled[at++]).toByteArray();
        ((GenericData.Record) line).put("num", ByteBuffer.wrap(bytes));
      }
    }
    write(name, schema, order, generic(), false);
  }

  private static String line(String quantity) {
    return "{'type':'record','name':'Line','fields':[{'name':'spec_no','type':'string'},"
        + "{'name':'num','type':" + quantity + "},{'name':'unit_name','type':['null','string'],'default':null},"
        + "{'name':'defect','type':'boolean'}]}";
  }

  private static Schema few(String quantity, String more) throws Exception {
    String text =
        "{'type':'record','name':'Order','namespace':'com.example','fields':[{'name':'command_id','type':'string'},"
            + "{'name':'return_no','type':'string'},{'name':'warehouse_no','type':'string'},"
            + "{'name':'create_mode','type':{'type':'enum','name':'Mode','symbols':['APPROVED','SUBMITTED']}},"
            + "{'name':'remark','type':'string'},{'name':'issued_at','type':'long'},"
            + "{'name':'details','type':{'type':'array','items':" + line(quantity) + "}}" + more + "]}";
    return parse(text.replace('\'', '"'));
  }

  /** The command in the fields this schema has. */
  private static GenericData.Record order(Schema schema, int scale) {
    GenericData.Record order = new GenericData.Record(schema);
    order.put("command_id", "w-1");
    order.put("return_no", "CT2026-001");
    order.put("warehouse_no", "WH-01");
    order.put("remark", "破损退货");
    order.put("issued_at", ISSUED);
    Schema mode = schema.getField("create_mode").schema();
    for (Schema branch : mode.getType() == Schema.Type.UNION ? mode.getTypes() : Arrays.asList(mode)) {
      if (branch.getType() == Schema.Type.ENUM) {
        order.put("create_mode", new GenericData.EnumSymbol(branch, "SUBMITTED"));
      } else if (branch.getType() == Schema.Type.STRING) {
        order.put("create_mode", "SUBMITTED");
      }
    }
    Schema of = schema.getField("details").schema().getElementType();
    order.put(
        "details",
        Arrays.asList(
            line(of, "SKU-1", "2.5", scale, "件", true), line(of, "SKU-2", "1000.25", scale, null, false)));
    return order;
  }

  private static GenericData.Record line(
      Schema schema, String specNo, String num, int scale, String unitName, boolean defect) {
    GenericData.Record line = new GenericData.Record(schema);
    line.put("spec_no", specNo);
    line.put("num", new BigDecimal(num).setScale(scale));
    line.put("unit_name", unitName);
    line.put("defect", defect);
    return line;
  }

  private static GenericData generic() {
    GenericData data = new GenericData();
    data.addLogicalTypeConversion(new Conversions.DecimalConversion());
    return data;
  }

  /** As the registry's parser: names and defaults are not looked at. */
  private static Schema parse(String text) throws Exception {
    Schema.Parser parser;
    try {
      Class<?> validator = Class.forName("org.apache.avro.NameValidator");
      Object none = validator.getField("NO_VALIDATION").get(null);
      parser = Schema.Parser.class.getConstructor(validator).newInstance(none);
    } catch (ClassNotFoundException before112) {
      parser = new Schema.Parser();
      Schema.Parser.class.getMethod("setValidate", boolean.class).invoke(parser, false);
    }
    return parser.setValidateDefaults(false).parse(text);
  }

  @SuppressWarnings("unchecked")
  private void write(String name, Schema schema, Object value, GenericData data, boolean blocks)
      throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    EncoderFactory factory = new EncoderFactory();
    BinaryEncoder encoder =
        blocks
            ? factory.configureBlockSize(64).blockingBinaryEncoder(bytes, null)
            : factory.binaryEncoder(bytes, null);
    DatumWriter<Object> writer =
        data instanceof ReflectData
            ? data.createDatumWriter(schema)
            : new GenericDatumWriter<Object>(schema, data);
    writer.write(value, encoder);
    encoder.flush();
    StringBuilder hex = new StringBuilder();
    for (byte one : bytes.toByteArray()) {
      hex.append(String.format("%02x", one));
    }
    String escaped = schema.toString().replace("\\", "\\\\").replace("\"", "\\\"");
    String text = "{\n  \"datum\": \"" + hex + "\",\n  \"schema\": \"" + escaped + "\"\n}\n";
    Path file = folder.resolve("java-" + version + "-" + name + ".json");
    Files.write(file, text.getBytes(StandardCharsets.UTF_8));
  }
}
