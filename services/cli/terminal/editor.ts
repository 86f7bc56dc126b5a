/** Lets a person edit a text, with the editor in $VISUAL or $EDITOR. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { CliError, exits } from '../exit.ts';
import { printable } from './table.ts';

/**
 * Opens the editor until `take` accepts the text, or the person gives up. Returns what `take` returned; undefined if the text was not changed.
 * `take` refuses a text by throwing a CliError, which is shown before the editor opens again with that text.
 */
export async function edited<T>(
  name: string,
  before: string,
  take: (text: string) => Promise<T>,
): Promise<T | undefined> {
  const folder = await mkdtemp(join(tmpdir(), 'lxstow-edit-'));
  const file = join(folder, name);
  try {
    await writeFile(file, before, { mode: 0o600 });
    for (;;) {
      await openEditor(file);
      const text = await readFile(file, 'utf8');
      if (text === before) return undefined;
      try {
        return await take(text);
      } catch (error) {
        if (!(error instanceof CliError) || !(await isToBeOpenedAgain(error))) throw error;
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function openEditor(file: string): Promise<void> {
  const editor = process.env.VISUAL || process.env.EDITOR || 'vi';
  // The variable may have arguments: `code --wait`.
  const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', file], { stdio: 'inherit' });
  const [status] = await once(child, 'exit');
  if (status !== 0)
    throw new CliError(exits.failed, `the editor ${JSON.stringify(editor)} failed; nothing was changed`, {
      hint: 'set EDITOR to another one',
    });
}

async function isToBeOpenedAgain({ message, hint }: CliError): Promise<boolean> {
  process.stderr.write(`lxstow: ${printable(message)}\n${hint === undefined ? '' : `  ${printable(hint)}\n`}`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const ended = once(terminal, 'close').then(() => false);
  try {
    const asked = terminal
      .question('Press Enter to open the editor again, Ctrl-C to change nothing. ')
      .then(() => true);
    return await Promise.race([asked, ended]);
  } finally {
    terminal.close();
  }
}
