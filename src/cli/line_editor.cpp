#include "cli/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cwchar>
#include <string_view>

#include "base/error.h"
#include "base/terminal.h"
#include "base/utf8.h"

namespace moesaic::cli {
namespace {

/// What stands for a new line inside the text; no key sends it while a line is read.
constexpr wchar_t kNewLine = 0x1c;
constexpr int kHistory = 500;
constexpr std::string_view kPasteBegin = "\x1b[200~";
constexpr std::string_view kPasteEnd = "\x1b[201~";

/// Set when the program goes on after Ctrl-Z, which leaves the terminal as the shell wants it.
std::atomic<bool> g_continued{false};

void send(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(::nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

struct LineEditor::Impl {
  explicit Impl(std::atomic<bool>& flag) : interrupted(flag) {
    use_utf8();
    editor = ::el_init("moesaic", stdin, stdout, stderr);
    earlier = ::history_init();
    MOESAIC_ASSERT(editor != nullptr && earlier != nullptr);
    HistEvent event;
    ::history(earlier, &event, H_SETSIZE, kHistory);
    ::history(earlier, &event, H_SETUNIQUE, 1);
    ::el_set(editor, EL_CLIENTDATA, this);
    ::el_set(editor, EL_PROMPT, &Impl::prompt_of);
    ::el_set(editor, EL_EDITOR, "emacs");
    ::el_set(editor, EL_HIST, &::history, earlier);
    ::el_set(editor, EL_GETCFN, &Impl::next_of);
    ::el_set(editor, EL_ADDFN, "new-line", "Puts a new line into the text", &Impl::new_line);
    const std::string key(1, static_cast<char>(kNewLine));
    ::el_set(editor, EL_BIND, key.c_str(), "new-line", nullptr);
    ::el_set(editor, EL_BIND, "\\e\\r", "new-line", nullptr);
    ::el_set(editor, EL_BIND, "\\e\\n", "new-line", nullptr);
    ::el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    std::signal(SIGCONT, [](int) { g_continued = true; });
  }
  ~Impl() {
    ::el_end(editor);
    ::history_end(earlier);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  static Impl& of(EditLine* editor) {
    void* self = nullptr;
    ::el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<Impl*>(self);
  }
  static char* prompt_of(EditLine* editor) { return of(editor).prompt.data(); }
  static int next_of(EditLine* editor, wchar_t* out) { return of(editor).next(*out); }
  static unsigned char new_line(EditLine* editor, int) {
    return ::el_insertstr(editor, "\n") == 0 ? CC_REFRESH : CC_ERROR;
  }

  /// Fills `pending` with what the terminal has; false at its end, and when Ctrl-C was pressed.
  bool receive() {
    for (;;) {
      if (interrupted) return false;
      if (g_continued.exchange(false)) {
        ::el_set(editor, EL_PREP_TERM, 1);
        ::el_set(editor, EL_REFRESH);
      }
      pollfd ready{STDIN_FILENO, POLLIN, 0};
      // Not for ever: a signal may come between the look at the flag and the wait.
      if (::poll(&ready, 1, 200) <= 0) continue;
      char buffer[4096];
      const ssize_t size = ::read(STDIN_FILENO, buffer, sizeof buffer);
      if (size > 0) {
        pending.append(buffer, static_cast<size_t>(size));
        return true;
      }
      if (size == 0 || errno != EINTR) return false;
    }
  }

  /// Whether what comes next is `mark`, of which all has come.
  bool starts_with(std::string_view mark) {
    while (pending.size() < mark.size() && mark.starts_with(pending)) {
      pollfd ready{STDIN_FILENO, POLLIN, 0};
      // Marks come in one piece; an Escape key alone does not go on.
      if (::poll(&ready, 1, 20) <= 0 || !receive()) return false;
    }
    return pending.starts_with(mark);
  }

  /// The next character: 1, or 0 when there is none.
  int next(wchar_t& out) {
    for (;;) {
      if (pending.empty() && !receive()) return 0;
      if (!pasting && starts_with(kPasteBegin)) {
        pending.erase(0, kPasteBegin.size());
        pasting = true;
      } else if (pasting && starts_with(kPasteEnd)) {
        pending.erase(0, kPasteEnd.size());
        pasting = false;
      } else {
        break;
      }
    }
    return take(out);
  }

  int take(wchar_t& out) {
    const auto whole = [&] { return base::utf8_size(pending) > 0 || pending.size() >= 4; };
    while (!whole()) {
      pollfd ready{STDIN_FILENO, POLLIN, 0};
      if (::poll(&ready, 1, 20) <= 0 || !receive()) break;
    }
    const size_t size = base::utf8_size(pending);
    if (size == 0) {
      out = 0xfffd;
      pending.erase(0, 1);
      return 1;
    }
    std::mbstate_t state{};
    std::mbrtowc(&out, pending.data(), size, &state);
    pending.erase(0, size);
    if (pasting) {
      if (out == '\r' || out == '\n') out = kNewLine;
      if (out == '\t') out = ' ';
      // Nothing in a pasted text is a command to the editor.
      if (out != kNewLine && (out < 0x20 || out == 0x7f)) return next(out);
    }
    return 1;
  }

  std::atomic<bool>& interrupted;
  EditLine* editor = nullptr;
  History* earlier = nullptr;
  std::string prompt;
  std::string pending;   ///< bytes that have come and are not used yet
  bool pasting = false;  ///< inside of pasted text
  const bool marks_pastes = base::is_smart_terminal(STDOUT_FILENO);
};

LineEditor::LineEditor(std::atomic<bool>& interrupted)
    : impl_(std::make_unique<Impl>(interrupted)) {}
LineEditor::~LineEditor() = default;

LineEditor::Line LineEditor::read(const std::string& prompt) {
  impl_->prompt = prompt;
  impl_->interrupted = false;
  ::el_resize(impl_->editor);
  if (impl_->marks_pastes) send("\x1b[?2004h");  // pasted text comes between marks
  int size = 0;
  const char* text = ::el_gets(impl_->editor, &size);
  if (impl_->marks_pastes) send("\x1b[?2004l");
  impl_->pasting = false;
  Line line;
  if (impl_->interrupted.exchange(false)) {
    line.end = End::kInterrupted;
    const LineInfo* info = ::el_line(impl_->editor);
    line.text.assign(info->buffer, info->lastchar);
    return line;
  }
  if (text == nullptr || size <= 0) return line;
  line.end = End::kLine;
  line.text.assign(text, static_cast<size_t>(size));
  if (line.text.ends_with('\n')) line.text.pop_back();
  return line;
}

void LineEditor::remember(const std::string& text) {
  HistEvent event;
  ::history(impl_->earlier, &event, H_ENTER, text.c_str());
}

}  // namespace moesaic::cli
