/** A page of docs/ as what it is for its readers: commands to type, and files to write. */
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LabFolder } from './folder.ts';
import { attempt } from './run.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

export interface Block {
  language: string;
  text: string;
  /** Why it is not to be run: what a comment in the line before says. */
  notRun: string | undefined;
}

/** Its fenced blocks. */
export function blocksOf(page: string): Block[] {
  const fences = /(?:^<!-- not run: (?<notRun>[^\n]+) -->\n)?^```(?<language>\w*)\n(?<text>.*?)^```$/gms;
  return [...page.matchAll(fences)].map(({ groups: { language = '', text = '', notRun } = {} }) => ({
    language,
    text,
    notRun,
  }));
}

export interface PageOptions {
  folder: LabFolder;
  env?: NodeJS.ProcessEnv;
  /** What the page says, and what that is in the lab: addresses. */
  replace?: Record<string, string>;
  /** Commands that mean something else here, as shell. */
  commands?: Record<string, string>;
}

export interface TypedPage {
  /** What was printed. */
  said: string;
  /** Types one more command in the same place, which may fail. */
  type(command: string, env?: NodeJS.ProcessEnv): Promise<{ status: number; stdout: string; stderr: string }>;
}

/**
 * Types all that a page says to: each `sh` block, in order, in one shell; a `yaml` block that begins with `# name` becomes that file.
 * Throws what was printed when a command fails. What it leaves in the background ends with the folder.
 */
export async function typePage(
  file: string,
  { folder, env = {}, replace = {}, commands = {} }: PageOptions,
): Promise<TypedPage> {
  const page = await readFile(new URL(`../../${file}`, import.meta.url), 'utf8');
  const home = join(folder.path, 'home');
  const bin = join(folder.path, 'bin');
  await mkdir(home);
  await mkdir(bin);
  const wrappers = { lxstow: `exec '${process.execPath}' '${cli}' "$@"`, ...commands };
  for (const [name, line] of Object.entries(wrappers)) {
    await writeFile(join(bin, name), `#!/bin/sh\n${line}\n`);
    await chmod(join(bin, name), 0o755);
  }
  let script = 'set -euo pipefail\n';
  for (const { language, text, notRun } of blocksOf(page)) {
    if (notRun !== undefined) continue;
    const here = Object.entries(replace).reduce((all, [from, to]) => all.replaceAll(from, to), text);
    const [, name] = /^# (\S+)\n/.exec(here) ?? [];
    if (language === 'yaml' && name) {
      await mkdir(dirname(join(home, name)), { recursive: true });
      script += `cat >${name} <<'END OF FILE'\n${here}END OF FILE\n`;
    } else if (language === 'sh') script += here;
  }
  await writeFile(join(folder.path, 'page.sh'), script);
  const log = join(folder.path, 'page.log');
  const given = { ...folder.env, ...env, HOME: home, PATH: `${bin}:${process.env.PATH}` };
  const options = { cwd: home, env: { ...given, XDG_CONFIG_HOME: join(home, '.config') } };
  // Into a file: what is left in the background would hold a pipe.
  const { status } = await attempt('bash', ['-c', `exec bash -x '${folder.path}/page.sh' >'${log}' 2>&1`], options);
  const said = await readFile(log, 'utf8');
  if (status !== 0) throw new Error(`${file}: exit status ${status}\n${said.split('\n').slice(-30).join('\n')}`);
  return {
    said,
    async type(command, more = {}) {
      const { stdout, ...ended } = await attempt('bash', ['-c', command], {
        ...options,
        env: { ...options.env, ...more },
      });
      return { ...ended, stdout: stdout.toString() };
    },
  };
}
