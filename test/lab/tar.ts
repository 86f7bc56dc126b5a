/** An entry of a tar. `longName`, `longLink` and `pax` go before it, as GNU's tar and POSIX have them. */
export interface Entry {
  name: string;
  text?: string | Buffer;
  /** The type flag; a file by default. */
  type?: string;
  longName?: string;
  longLink?: string;
  pax?: Record<string, string>;
  /** What the pax header is instead. */
  rawPax?: string;
  /** Changes the header before its sum is made. */
  change?: (header: Buffer) => void;
}

/** A tar of one small file. */
export function tarOf(name: string, text: string | Buffer): Buffer {
  return entriesOf([{ name, text }]);
}

/** A tar of small files. */
export function entriesOf(entries: Entry[]): Buffer {
  return Buffer.concat([...entries.flatMap(bytesOf), Buffer.alloc(1024)]);
}

function bytesOf({ name, text = '', type = '0', longName, longLink, pax, rawPax, change }: Entry): Buffer[] {
  const extended = rawPax ?? (pax && Object.entries(pax).map(record).join(''));
  const before = [
    ...(longName === undefined ? [] : [entry('././@LongLink', `${longName}\0`, 'L')]),
    ...(longLink === undefined ? [] : [entry('././@LongLink', `${longLink}\0`, 'K')]),
    ...(extended === undefined ? [] : [entry('PaxHeaders/x', extended, 'x')]),
  ];
  return [...before, entry(name, text, type, change)];
}

/** `<length> <key>=<value>\n`; the length counts itself. */
function record([key, value]: [string, string]): string {
  const rest = ` ${key}=${value}\n`;
  const length = rest.length + String(rest.length + 2).length;
  return `${length}${rest}`;
}

function entry(name: string, text: string | Buffer, type: string, change?: (header: Buffer) => void): Buffer {
  const content = Buffer.from(text);
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write('0000644\0', 100);
  header.write(`${content.length.toString(8).padStart(11, '0')}\0`, 124);
  header.write('        ', 148);
  header.write(type, 156);
  header.write('ustar\x0000', 257);
  change?.(header);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([header, content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
}
