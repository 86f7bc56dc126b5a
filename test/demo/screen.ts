/** What the demo shows: headings, lines, proofs, and one line that moves while something runs. */
const tty = process.stdout.isTTY === true;
const colours = tty && !process.env.NO_COLOR;
const indent = '   ';
const barCells = 24;
/** Without a terminal a line of progress is printed so often, or when the stage changes. */
const plainEveryMs = 1000;

const style = (code: number) => (text: string) => (colours ? `\x1b[${code}m${text}\x1b[0m` : text);
const bold = style(1);
const dim = style(2);
const red = style(31);
const green = style(32);
const yellow = style(33);

/** A proof that did not hold: it ends the demo. */
export class Disproved extends Error {}

interface Progress {
  stage: string;
  done: number;
  /** 0 while it is not known. */
  total: number;
  perSecond: number;
}

let steps = 0;
let proofs = 0;
let moving = false;
let plainAt = Number.NEGATIVE_INFINITY;
let plainStage = '';

function print(line: string): void {
  process.stdout.write(`${moving ? '\r\x1b[K' : ''}${line}\n`);
  moving = false;
}

export function title(text: string): void {
  print(bold(text));
}

export function step(text: string): void {
  steps += 1;
  print(`\n${bold(`${steps}. ${text}`)}`);
}

export function say(...lines: string[]): void {
  for (const line of lines) print(indent + line);
}

/** Something that the demo's parts say by themselves. */
export function aside(...lines: string[]): void {
  for (const line of lines) print(indent + dim(line));
}

/** Something that must not be missed. */
export function warn(...lines: string[]): void {
  for (const line of lines) print(indent + yellow(line));
}

/** A command as one would type it. */
export function command(line: string): void {
  print(`${indent}${dim('$')} ${bold(line)}`);
}

/** Says that `claim` holds, or ends the demo. */
export function prove(claim: string, holds: boolean): void {
  print(`${indent}${holds ? green('✓') : red('✗')} ${claim}`);
  if (!holds) throw new Disproved(claim);
  proofs += 1;
}

/** How many proofs have held. */
export function proved(): number {
  return proofs;
}

export function failed(text: string): void {
  print(`\n${red(text)}`);
}

/** On a terminal one line that is written over and over, else a line now and then. */
export function progress({ stage, done, total, perSecond }: Progress): void {
  const words = [stage.padEnd(10)];
  const share = total > 0 ? Math.min(1, done / total) : undefined;
  if (tty && share !== undefined) words.push(bar(share));
  if (share !== undefined) words.push(`${Math.floor(share * 100)} %`.padStart(5));
  if (done > 0) words.push(`${mb(done)}${total > 0 ? ` of ${mb(total)}` : ''}`);
  if (perSecond > 0) words.push(`${mb(perSecond)}/s`);
  const line = indent + dim(words.join('  ').trimEnd());
  if (tty) {
    process.stdout.write(`\r\x1b[K${line}`);
    moving = true;
    return;
  }
  const now = performance.now();
  if (stage === plainStage && now - plainAt < plainEveryMs) return;
  [plainStage, plainAt] = [stage, now];
  print(line);
}

function bar(share: number): string {
  const full = Math.round(share * barCells);
  return '█'.repeat(full) + '░'.repeat(barCells - full);
}

export function mb(bytes: number): string {
  const value = bytes / 1e6;
  return `${value.toFixed(value < 10 ? 1 : 0)} MB`;
}

export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** Rows in columns that line up; numbers, given as such, to the right. */
export function table(rows: (string | number)[][]): void {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => String(row[column] ?? '').length)));
  for (const row of rows) {
    const cells = row.map((cell, column) => {
      const width = widths[column] ?? 0;
      if (typeof cell === 'number') return String(cell).padStart(width);
      return column === row.length - 1 ? cell : cell.padEnd(width);
    });
    say(cells.join('  '));
  }
}
