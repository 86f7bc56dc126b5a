/** What the declarations of commands share. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Exit } from './exit.ts';
import { formats } from './terminal/output.ts';

export const formatOption = () => new Option('-f, --format <format>', 'how to print').choices(formats).default('table');
/** An option that may be given again. */
export const several = (flags: string, what: string) =>
  new Option(flags, what).argParser((text: string, before: string[]) => [...before, text]).default([], 'none');

const units: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000 };

/** `90s`, `10m` or `1h` in ms. */
export function retryTime(text: string): number {
  const [, count, unit = ''] = /^([1-9]\d{0,4})([smh])$/.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError('Give it as 90s, 10m or 1h.');
  return Number(count) * (units[unit] as number);
}

/** Sets the exit status to what the command says. */
export function exiting<A extends unknown[]>(run: (...args: A) => Promise<Exit>): (...args: A) => Promise<void> {
  return async (...args) => {
    process.exitCode = await run(...args);
  };
}

/** Examples at the end of a command's help. */
export function examples(command: Command, ...lines: string[]): Command {
  return command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  ${line}\n`).join('')}`);
}
