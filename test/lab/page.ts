/** A page of docs/ as what it is for its readers: commands to type, files to write, and what is then to be seen. */
import assert from 'node:assert/strict';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { LabFolder } from './folder.ts';
import { attempt } from './run.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

interface Block {
  language: string;
  text: string;
  /** Why it is not to be run: what a comment in the line before says. */
  notRun: string | undefined;
  /** Why what it shows is not to be compared. */
  notCompared: string | undefined;
  /** It stands right below another one, and shows what that printed. */
  below: boolean;
  /** The hosts on which it is to be typed, each in its turn; `$HOST` is its name. */
  on: string[];
}

/** Its fenced blocks. */
export function blocksOf(page: string): Block[] {
  const fences = /^(?<comments>(?:<!-- [^\n]+ -->\n)*)```(?<language>\w*)\n(?<text>.*?)^```$/gms;
  let end = -1;
  return [...page.matchAll(fences)].map(
    ({ 0: whole, index, groups: { comments = '', language = '', text = '' } = {} }) => {
      const below = index === end + 1;
      end = index + whole.length;
      const comment = (word: string) => new RegExp(`^<!-- ${word}:? (.+) -->$`, 'm').exec(comments)?.[1];
      return {
        language,
        text,
        notRun: comment('not run'),
        notCompared: comment('not compared'),
        below,
        on: comment('on')?.split(' ') ?? [],
      };
    },
  );
}

/** Whether there is something to type in it: a script, or a session with `$ ` before each command and what it said behind it. */
export function isTyped({ language, text }: Block): boolean {
  return ['sh', 'crontab'].includes(language) || (language === '' && text.startsWith('$ '));
}

export interface PageOptions {
  folder: LabFolder;
  env?: NodeJS.ProcessEnv;
  /** What the page says, and what that is in the lab: addresses. */
  replace?: Record<string, string>;
  /** Commands that mean something else here, as shell. */
  commands?: Record<string, string>;
  /** What has been typed before, as shell. */
  before?: string;
  /** What a command is put behind to run on another machine. */
  enter?: string[];
  /** What each of the page's hosts has in its environment. */
  hosts?: Record<string, Record<string, string>>;
}

export interface TypedPage {
  /** What was printed. */
  said: string;
  /** Types one more command in the same place, which may fail. */
  type(command: string, env?: NodeJS.ProcessEnv): Promise<{ status: number; stdout: string; stderr: string }>;
}

/** Before what is printed from there on; no command prints it. */
const separator = '\u001e';

/**
 * Types all that a page (if any) says to: each `sh` block, in order, in one shell; a `yaml` block that begins with `# name` becomes that file; of
 * a session each command, which may have status 1 or 2: it has something to tell. What a block right below shows is compared with what was
 * printed: its first line with numbers and ids left out, or the keys of its JSON. Of a `crontab` what is for `@reboot` is begun where it stands, and
 * the rest done at the page's end.
 * Throws what was printed when a command fails. What it leaves in the background ends with the folder.
 */
export async function typePage(
  file: string | undefined,
  { folder, env = {}, replace = {}, commands = {}, before = '', enter = [], hosts = {} }: PageOptions,
): Promise<TypedPage> {
  const page = file === undefined ? '' : await readFile(new URL(`../../${file}`, import.meta.url), 'utf8');
  const home = join(folder.path, 'home');
  const bin = join(folder.path, 'bin');
  await mkdir(home, { recursive: true });
  await mkdir(bin, { recursive: true });
  const wrappers = { lxstow: `exec '${process.execPath}' '${cli}' "$@"`, ...commands };
  for (const [name, line] of Object.entries(wrappers)) {
    await writeFile(join(bin, name), `#!/bin/sh\n${line}\n`);
    await chmod(join(bin, name), 0o755);
  }
  const { script, shown } = scriptOf(page, { before, replace, hosts });
  const place = join(folder.path, basename(file ?? 'before', '.md'));
  await writeFile(`${place}.sh`, script);
  const log = `${place}.log`;
  const given = { ...folder.env, ...env, HOME: home, PATH: `${bin}:${process.env.PATH}` };
  const options = { env: { ...given, XDG_CONFIG_HOME: join(home, '.config') } };
  const shell = (line: string, more: NodeJS.ProcessEnv = {}) => {
    const [command = '', ...args] = [...enter, 'bash', '-c', `cd '${home}' && ${line}`];
    return attempt(command, args, { env: { ...options.env, ...more } });
  };
  // Into a file: what is left in the background would hold a pipe.
  const trace = `${place}.trace`;
  const { status } = await shell(`BASH_XTRACEFD=9 exec bash -x '${place}.sh' >'${log}' 2>&1 9>'${trace}'`);
  const said = await readFile(log, 'utf8');
  if (status !== 0) {
    const typed = await readFile(trace, 'utf8');
    throw new Error(`${file}: exit status ${status}\n${lastLines(typed, 3)}\n${lastLines(said, 30)}`);
  }
  const outputs = said.split(separator);
  for (const { after, language, text } of shown) {
    const output = outputs[after] ?? '';
    if (language === 'json') assertKeys(`${file}`, text, output);
    else assertFirstLine(`${file}`, text, output);
  }
  return {
    said,
    async type(command, more = {}) {
      const { stdout, ...ended } = await shell(command, more);
      return { ...ended, stdout: stdout.toString() };
    },
  };
}

/** Output that a page shows, and behind which of the typed commands. */
interface Shown {
  after: number;
  language: string;
  text: string;
}

/** The script that types a page; at its end what the page's crontab does at night. */
function scriptOf(
  page: string,
  { before = '', replace = {}, hosts = {} }: Pick<PageOptions, 'before' | 'replace' | 'hosts'>,
): { script: string; shown: Shown[] } {
  // As in a shell with somebody before it.
  let script = `set -euo pipefail; shopt -s expand_aliases
${before}`;
  let typed = 0;
  let night = '';
  const shown: Shown[] = [];
  const mark = () => `printf '${separator}'\n`;
  for (const { language, text, notRun, notCompared, below, on } of blocksOf(page)) {
    if (notRun !== undefined) continue;
    const here = Object.entries(replace).reduce((all, [from, to]) => all.replaceAll(from, to), text);
    const [, name] = /^# (\S+)\n/.exec(here) ?? [];
    const compared = notCompared === undefined;
    if (['yaml', 'json'].includes(language) && name) {
      script += `mkdir -p "$(dirname ${name})"; cat >${name} <<'END OF FILE'\n${here}END OF FILE\n`;
    } else if (language === 'sh') {
      typed += 1;
      script += mark();
      for (const host of on.length > 0 ? on : [undefined]) {
        for (const [key, value] of Object.entries({ ...hosts[host ?? ''], ...(host ? { HOST: host } : {}) }))
          script += `export ${key}='${value}'\n`;
        script += here;
      }
    } else if (language === 'crontab') {
      for (const line of here.trim().split('\n')) {
        const [, when, command = ''] = /^(@reboot|(?:\S+\s+){4}\S+)\s+(.*)$/.exec(line) ?? [];
        if (when === '@reboot') script += `( ${command} ) &\n`;
        else if (when) night += `${mark()}${command}\n`;
      }
    } else if (isTyped({ language, text } as Block)) {
      for (const [command = '', ...lines] of here
        .split(/^\$ /m)
        .slice(1)
        .map((each) => each.split('\n'))) {
        typed += 1;
        script += `${mark()}${command} || [ $? -le 2 ]\n`;
        if (compared) shown.push({ after: typed, language: '', text: lines.join('\n') });
      }
    } else if (compared && below && ['', 'json'].includes(language)) shown.push({ after: typed, language, text });
  }
  return { script: script + night, shown };
}

function lastLines(text: string, count: number): string {
  return text.trimEnd().split('\n').slice(-count).join('\n');
}

/** A line without what is another each time: ids, times, numbers, and how wide its columns are. */
function shapeOf(line: string): string {
  return line
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}/g, 'ID')
    .replaceAll(/\d[\d.:TZ-]*/g, '0')
    .replaceAll(/\s+/g, ' ')
    .trim();
}

function assertFirstLine(file: string, shown: string, output: string): void {
  const first = shapeOf(shown.trim().split('\n')[0] ?? '');
  const lines = output.split('\n').map(shapeOf);
  assert.ok(lines.includes(first), `${file} shows\n${shown}where it is\n${output}`);
}

/** What the page shows is among what was printed: an object with these keys, as it is or in an answer's metadata. */
function assertKeys(file: string, shown: string, output: string): void {
  const expected = JSON.parse(shown);
  const answers = output
    .replaceAll('}{', '}\n{')
    .split('\n')
    .flatMap((line) => {
      try {
        const answer = JSON.parse(line);
        return [answer, answer?.metadata];
      } catch {
        return [];
      }
    });
  assert.ok(
    answers.some((answer) => hasKeys(answer, expected)),
    `${file} shows\n${shown}where it is\n${output}`,
  );
}

function hasKeys(answer: unknown, shown: unknown): boolean {
  if (typeof shown !== 'object' || shown === null || Array.isArray(shown)) return answer !== undefined;
  if (typeof answer !== 'object' || answer === null) return false;
  return Object.entries(shown).every(([key, value]) => hasKeys((answer as Record<string, unknown>)[key], value));
}
