/** `lxstow completion`: scripts for shells, which call `lxstow __complete` for the words. */
import type { Command } from 'commander';
import { Gateways, instanceNames, listBackups } from '../client/names.ts';
import { listRemotes } from '../client/remotes.ts';

const shells = ['bash', 'zsh', 'fish'] as const;

const scripts: Record<(typeof shells)[number], string> = {
  bash: `# source <(lxstow completion bash)
_lxstow() {
  local line="\${COMP_LINE:0:COMP_POINT}" current
  local -a words
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  mapfile -t COMPREPLY < <(lxstow __complete -- "\${words[@]:1}" 2>/dev/null)
  current="\${words[-1]}"
  # bash takes the colon for the end of a word.
  [[ $current == *:* && $COMP_WORDBREAKS == *:* ]] && COMPREPLY=("\${COMPREPLY[@]#"\${current%:*}:"}")
  [[ \${#COMPREPLY[@]} -eq 1 && \${COMPREPLY[0]} == *: ]] && compopt -o nospace
  return 0
}
complete -o default -F _lxstow lxstow
`,
  zsh: `#compdef lxstow
# source <(lxstow completion zsh), or as _lxstow in a folder of $fpath
_lxstow() {
  local -a found
  found=("\${(@f)$(lxstow __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  [[ -n $found ]] && compadd -- $found || _files
}
if [[ $funcstack[1] == _lxstow ]]; then _lxstow "$@"; else compdef _lxstow lxstow; fi
`,
  fish: `# lxstow completion fish | source
complete -c lxstow -f -a '(lxstow __complete -- (commandline -opc)[2..-1] (commandline -ct))'
complete -c lxstow -n '__fish_seen_subcommand_from export' -F
`,
};

export function completionCommand(shell: (typeof shells)[number]): void {
  process.stdout.write(scripts[shell]);
}

/** If the gateway takes longer than this, the shell gets no names from it. */
const patienceMs = 3000;

/** Completions of the last word. If the gateway does not answer, they lack its names. */
export async function complete(program: Command, words: string[]): Promise<string[]> {
  let command = program;
  const given: string[] = [];
  const current = words.at(-1) ?? '';
  const before = words.slice(0, -1);
  let project: string | undefined;
  let open: ReturnType<typeof optionOf>;
  for (const word of before) {
    if (open) {
      if (open.long === '--project') project = word;
      open = undefined;
    } else if (word.startsWith('-')) {
      const option = optionOf(command, word) ?? optionOf(program, word);
      if (option && (option.required || option.optional) && !word.includes('=')) open = option;
    } else {
      const sub =
        given.length === 0 && command.commands.find((each) => each.name() === word || each.aliases().includes(word));
      if (sub) command = sub;
      else given.push(word);
    }
  }
  const fits = (candidates: string[]) => candidates.filter((each) => each.startsWith(current));
  if (open) return fits(open.argChoices ?? []);
  if (current.startsWith('-'))
    return fits([...command.options.flatMap(({ long, hidden }) => (long && !hidden ? [long] : [])), '--help']);
  const visible =
    given.length === 0
      ? command
          .createHelp()
          .visibleCommands(command)
          .map((each) => each.name())
      : [];
  const expected = command.registeredArguments;
  const argument = expected[given.length] ?? (expected.at(-1)?.variadic ? expected.at(-1) : undefined);
  const values = argument ? await valuesOf(argument.name(), argument.argChoices, given, current, project) : [];
  return fits([...visible, ...values]);
}

function optionOf(command: Command, word: string) {
  const flag = word.split('=')[0];
  return command.options.find(({ long, short }) => long === flag || short === flag);
}

async function valuesOf(
  name: string,
  choices: readonly string[] | undefined,
  given: string[],
  current: string,
  project: string | undefined,
): Promise<string[]> {
  if (choices) return [...choices];
  const asked = Promise.withResolvers<string[]>();
  using _timer = setTimeout(() => asked.resolve([]), patienceMs);
  namesFor(name, given, current, project).then(asked.resolve, () => asked.resolve([]));
  return await asked.promise;
}

/** Names of gateways, instances, backups or operations that an argument can take. */
async function namesFor(
  argument: string,
  given: string[],
  current: string,
  project: string | undefined,
): Promise<string[]> {
  using gateways = new Gateways();
  const { remotes } = await listRemotes();
  const gatewayPrefixes = remotes.map(({ name }) => `${name}:`);
  const scope = project === undefined ? {} : { project };
  switch (argument) {
    case 'gateway':
      return gatewayPrefixes;
    case 'name':
      return remotes.map((remote) => remote.name);
    case 'instance': {
      const where = await gateways.instance(current.includes(':') ? current : '', scope);
      const all = { ...where, instance: '' };
      const [live, stored] = await Promise.all([instanceNames(all).catch(() => []), listBackups(all).catch(() => [])]);
      const names = new Set([...live, ...stored.map(({ instance = '' }) => instance)]);
      const prefix = current.includes(':') ? current.slice(0, current.indexOf(':') + 1) : '';
      return [...[...names].sort().map((each) => prefix + each), ...(prefix ? [] : gatewayPrefixes)];
    }
    case 'backup': {
      const where = await gateways.oneInstance(given[0] ?? '', scope);
      return ['latest', ...(await listBackups(where)).map((each) => each.name)];
    }
    case 'operation': {
      const gateway = await gateways.get(undefined);
      const byStatus: Record<string, { id: string; may_cancel: boolean }[]> = await gateway.ask('GET', ['operations'], {
        query: { recursion: '1', 'all-projects': 'true' },
      });
      return Object.values(byStatus)
        .flat()
        .filter(({ may_cancel }) => may_cancel)
        .map(({ id }) => id);
    }
    default:
      return [];
  }
}
